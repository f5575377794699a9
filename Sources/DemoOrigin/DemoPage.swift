// The page of the demo: one file without anything from elsewhere. Its parts stand in DemoPageStyle.swift and
// DemoPageScript.swift.

enum DemoPage {
    /// The fields of the page's response. The policy proves what the page promises: it loads nothing.
    static let fields = [
        ("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store"),
        (
            "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
        ),
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
        <title>Headfirst, live</title>
        <link rel="icon" href="\(icon)">
        <style>\(style)</style>
        </head>
        \(body)
        <script>\(script)</script>
        </html>

        """

    private static let body = """
        <body>
        <header class="bar wrap">
          <span class="brand"><svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="8"/>
          <path d="M7 16h18M18 9l7 7-7 7"/></svg>Headfirst</span>
          <span class="way" id="way"><span>slow origin</span><i></i><b>Headfirst</b><i></i><span>you</span></span>
        </header>

        <main class="wrap">
          <section class="hero">
            <h1>The head goes first. <em>Always.</em></h1>
            <p>Headfirst is a reverse proxy for slow backends. The moment a status line and its fields are known, they
            are on the wire to you; the content follows as it comes. The backend of this page is slow on purpose.
            Run it, and see when each part arrives.</p>
          </section>

          <section class="board" aria-label="Demonstrations">
            <div class="top">
              <button class="all" id="all" type="button">Run all</button>
              <ul class="legend">
                <li><i class="key interim"></i>interim</li>
                <li><i class="key head"></i>head</li>
                <li><i class="key content"></i>content</li>
                <li><i class="key end"></i>end</li>
              </ul>
              <div class="axis" aria-hidden="true"><span>0</span><span>1</span><span>2</span><span>3</span><span>4</span>
              <span>5</span><span>6 s</span></div>
            </div>
            \(lane("slow", "/slow", "Slow content", "The head at once, the content three seconds later."))
            \(lane("held", "/held", "The same, held back", "What you get when anything on the way waits for content."))
            \(lane("report", "/report", "A report in the making", "Ten lines over five seconds, each as it is written."))
            \(lane("hints", "/hints", "A hint before the page", "A 103 tells what to preload while the page is made."))
            \(lane("events", "/events", "A stream of events", "One a second. After six you hang up; the origin is told."))
          </section>

          <section class="shell">
            <h2>And in a terminal</h2>
            <p>A browser shows no trailers, and reads no answer before its upload is out. curl does.</p>
            \(command("upload", "(for i in 1 2 3 4 5; do echo piece $i; sleep 1; done) | curl -N -T . ", "/upload",
                "An answer while you are still sending: a line for each piece that arrives."))
            \(command("trailer", "curl -N -D - ", "/report", "The head, ten lines one by one, and a digest in the trailer."))
            \(command("interim", "curl -N -D - ", "/hints", "The 103 is there two seconds before the 200."))
          </section>
        </main>

        <footer class="wrap"><p id="via">Nothing on this page comes from anywhere but this machine.</p></footer>
        </body>
        """

    private static func lane(_ id: String, _ path: String, _ title: String, _ text: String) -> String {
        """
        <article class="lane" id="\(id)" data-path="\(path)">
          <button class="run" type="button" aria-label="Run: \(title)"><svg viewBox="0 0 16 16" aria-hidden="true">
          <path d="M4.5 2.6v10.8L13 8z"/></svg></button>
          <div class="what"><h2>\(title) <code>\(path)</code></h2><p>\(text)</p></div>
          <div class="track"><div class="silence"></div><div class="open"></div></div>
          <p class="said" aria-live="polite"></p>
        </article>
        """
    }

    private static func command(_ id: String, _ before: String, _ path: String, _ text: String) -> String {
        """
        <div class="command"><p>\(text)</p><pre><code id="\(id)">\(before)<span data-url="\(path)">\(path)</span></code></pre>
        <button class="copy" type="button" data-copies="\(id)">Copy</button></div>
        """
    }

    /// The page of `/hints`.
    static let hintsHTML = """
        <!doctype html>
        <html lang="en">
        <head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
        <title>A page with a hint</title><link rel="icon" href="\(icon)">
        <link rel="stylesheet" href="/style.css"></head>
        <body><main><h1>Here is the page</h1>
        <p>It took two seconds to make. The 103 before it named the style sheet, to be fetched in the meantime.</p>
        <p><a href="/">Back to the demonstrations</a></p></main></body>
        </html>

        """

    /// The style sheet that the 103 of `/hints` names.
    static let hintsStyle = """
        :root { color-scheme: light dark; font: 18px/1.6 system-ui, sans-serif; }
        body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: #f7f5f0; color: #17191e; }
        main { max-width: 32rem; padding: 2rem; }
        h1 { line-height: 1.1; letter-spacing: -.03em; }
        a { color: #cf3520; }
        @media (prefers-color-scheme: dark) { body { background: #0f1115; color: #eceae4; } a { color: #ff7357; } }

        """
}
