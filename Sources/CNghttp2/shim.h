// nghttp2, by the calls that do no I/O. Nothing of it is out of the importer's sight. No logic.
#ifndef HEADFIRST_CNGHTTP2_SHIM_H
#define HEADFIRST_CNGHTTP2_SHIM_H

#include <nghttp2/nghttp2.h>

#endif
