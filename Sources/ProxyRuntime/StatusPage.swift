// The operators' page at `/` of an admin listener: one file without anything from elsewhere, made alive by the events
// of `status/events`. Its parts stand in StatusPageStyle.swift; its script in StatusPageFigures.swift,
// StatusPageTables.swift and StatusPageScript.swift.

enum StatusPage {
    /// The fields of the page's response. The policy proves that it loads nothing, and that nothing may frame it.
    static let fields = [
        ("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store"),
        (
            "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
                + "img-src data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
        ),
        ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
    ]

    private static let icon =
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' "
        + "height='32' rx='8' fill='%23e5432d'/%3E%3Cpath d='M7 16h18M18 9l7 7-7 7' stroke='%23fff' stroke-width='4' "
        + "fill='none'/%3E%3C/svg%3E"

    static let html = """
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>Headfirst, status</title>
        <link rel="icon" href="\(icon)">
        <style>\(style)</style>
        </head>
        \(body)
        <script>\(figuresScript)\(tablesScript)\(script)</script>
        </html>

        """

    private static let body = """
        <body class="waiting">
        <header class="bar wrap">
          <span class="brand"><svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8"/>
          <path d="M7 16h18M18 9l7 7-7 7"/></svg>Headfirst</span>
          <span class="node" id="node"></span>
          <span class="pill" id="pill">connecting</span>
        </header>

        <main class="wrap">
          <section class="hero">
            <h1 aria-live="polite"><span id="headline">Waiting for the first figures.</span> <em id="verdict"></em></h1>
            <p id="summary"></p>
            <noscript><p>This page needs its script. The same figures are at <a href="status">status</a> and
            <a href="metrics">metrics</a>.</p></noscript>
            <ul class="notices" id="notices" aria-label="What to look at"></ul>
          </section>

          <div class="tools">
            <fieldset class="period"><legend class="unseen">Figures of</legend>
              <label><input type="radio" name="period" value="recent" checked><span>Last minute</span></label>
              <label><input type="radio" name="period" value="total"><span>Since start</span></label>
            </fieldset>
            <input type="search" id="filter" placeholder="Filter" aria-label="Filter all tables by name"
              autocomplete="off" spellcheck="false">
          </div>

          <div class="tiles">
            <article class="tile promise"><h2>Headfirst had a head in its hands for</h2>
              <p class="big"><b id="hold-median"></b><span>median</span><b id="hold-most"></b><span>99.9 % within</span></p>
              <div class="bars" id="hold-bars" aria-hidden="true"></div>
              <p class="more" id="hold-note"></p></article>
            \(tile("requests", "Requests a second"))
            \(tile("failures-sum", "Failures"))
            \(tile("head", "Backends' time to head"))
            \(tile("content", "Time to first content"))
            \(tile("open", "Running exchanges"))
            \(tile("connections", "Clients' connections"))
          </div>

          \(part("routes", "Routes"))
          \(part("upstreams", "Upstreams"))
          \(part("servers", "Servers"))
          \(part("listeners", "Listeners"))
          <div class="pair">
          \(part("failures", "Failures by reason"))
          \(part("certificates", "Certificates"))
          <section class="part" aria-labelledby="process-title"><h2 id="process-title">Process and configuration</h2>
            <dl id="process"></dl></section>
          </div>
        </main>

        <footer class="wrap"><p>Times are read from histograms whose bounds double, so take them as two digits at best.
        All figures: <a href="metrics">metrics</a> for Prometheus, <a href="status">status</a> as JSON.</p></footer>
        \(cure)
        </body>
        """

    private static func tile(_ id: String, _ title: String) -> String {
        """
        <article class="tile" id="\(id)"><h2>\(title)</h2><p class="big"><b></b><span></span></p>
          <p class="more"></p></article>
        """
    }

    private static func part(_ id: String, _ title: String) -> String {
        """
        <section class="part" id="\(id)" aria-labelledby="\(id)-title" hidden>
          <div class="title"><h2 id="\(id)-title">\(title) <small></small></h2>
          <label class="sort">Sort by <select><option value="">configuration</option></select></label></div>
          <table role="table" aria-labelledby="\(id)-title"><thead role="rowgroup"><tr role="row"></tr></thead>
          <tbody role="rowgroup"></tbody></table>
          <p class="none" hidden></p><button class="all" type="button" hidden></button>
        </section>
        """
    }

    /// What to do about a backend that sends its head only with its content.
    private static let cure = """
        <template id="cure"><details><summary>How to send the head first</summary>
        <p>As soon as the backend knows its status, long before the content is ready:</p>
        <dl>
        <dt>Node, Express</dt><dd><code>res.writeHead(200, fields); res.flushHeaders()</code></dd>
        <dt>Go</dt><dd><code>w.WriteHeader(200); w.(http.Flusher).Flush()</code></dd>
        <dt>Java servlets, Spring</dt><dd><code>response.flushBuffer()</code></dd>
        <dt>Python: Flask, Django</dt><dd>Stream the response, and <code>yield</code> a first piece at once: a line feed, or
        <code>":\\n\\n"</code> for events. WSGI sends no head before the first content that is not empty.</dd>
        <dt>PHP</dt><dd><code>echo "\\n"; ob_flush(); flush()</code>, a first piece as in Python</dd>
        <dt>nginx in between</dt><dd><code>proxy_buffering off</code> (<code>fastcgi_buffering</code>,
        <code>uwsgi_buffering</code>), or <code>X-Accel-Buffering: no</code> from the backend. Otherwise nginx keeps the head
        until content comes.</dd>
        </dl>
        <p>Where the status is known only once the work is done, the head cannot come earlier: then all is as it should
        be.</p></details></template>
        """
}
