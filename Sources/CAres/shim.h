// c-ares, the asynchronous resolver. Everything we use is visible to Swift as it is.
#ifndef HEADFIRST_CARES_SHIM_H
#define HEADFIRST_CARES_SHIM_H

#include <ares.h>

#endif
