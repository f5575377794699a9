extension DemoPage {
    /// The page's script: runs a lane and draws each part of the response at the time it arrived.
    static let script = #"""

        "use strict";
        const SPAN = 6000; // milliseconds that a track shows
        const all = document.getElementById("all");

        const text = ms => (ms < 10 ? ms.toFixed(1) + " ms" : ms < 1000 ? Math.round(ms) + " ms" : (ms / 1000).toFixed(2) + " s")
          .replace(" ", "\u00a0");

        class Lane {
          constructor(element) {
            this.path = element.dataset.path;
            this.track = element.querySelector(".track");
            this.silence = element.querySelector(".silence");
            this.open = element.querySelector(".open");
            this.said = element.querySelector(".said");
            this.button = element.querySelector(".run");
            this.button.addEventListener("click", () => this.run());
          }

          now() { return performance.now() - this.start; }
          at(ms) { return Math.min(100, ms / SPAN * 100) + "%"; }

          mark(kind, ms = this.now()) {
            const mark = document.createElement("span");
            mark.className = "mark " + kind;
            mark.style.left = this.at(ms);
            mark.title = kind + ", " + text(ms);
            // What comes at once stands side by side, in its order.
            this.beside = Math.abs(ms - this.latest) < 60 ? this.beside + 1 : 0;
            this.latest = ms;
            mark.style.marginLeft = this.beside * 10 + "px";
            this.track.append(mark);
            if (kind === "content" && !("content" in this.times)) this.times.content = ms;
            if (kind === "content") this.pieces++; else this.times[kind] = ms;
            this.tell();
          }

          tell(note) {
            const parts = [];
            for (const kind of ["interim", "head", "content", "end"])
              if (kind in this.times) parts.push([kind === "content" ? "first\u00a0content" : kind, text(this.times[kind])]);
            this.said.replaceChildren(...parts.flatMap(([name, time], i) => {
              const bold = document.createElement("b");
              bold.textContent = time;
              return [(i ? " · " : "") + name + "\u00a0", bold];
            }));
            if (note) this.said.append((parts.length ? " · " : "") + note);
          }

          draw() {
            const now = this.isRunning ? this.now() : (this.times.end ?? this.stopped);
            const head = this.times.head ?? now;
            this.silence.style.width = this.at(head);
            this.open.style.left = this.at(head);
            this.open.style.width = "calc(" + this.at(now) + " - " + this.at(head) + ")";
            if (this.isRunning) requestAnimationFrame(() => this.draw());
          }

          async run() {
            if (this.isRunning) return;
            this.track.querySelectorAll(".mark").forEach(mark => mark.remove());
            this.times = {};
            this.pieces = this.beside = 0;
            this.latest = -Infinity;
            this.isRunning = this.button.disabled = true;
            this.tell("waiting");
            this.start = performance.now();
            this.draw();
            let note;
            try {
              note = await (this.path === "/events" ? this.listen() : this.fetch());
            } catch (error) {
              note = "failed: " + error.message;
            }
            this.stopped = this.now();
            this.isRunning = this.button.disabled = false;
            this.draw();
            this.tell(note);
          }

          async fetch() {
            const url = this.path + "?" + Math.random().toString(36).slice(2);
            const response = await fetch(url, { cache: "no-store" });
            this.mark("head");
            const reader = response.body.getReader();
            while (!(await reader.read()).done) this.mark("content");
            this.mark("end");
            return this.path === "/hints" ? this.lookForHint(url) : this.pieces > 1 ? this.pieces + " pieces" : "";
          }

          // The browser knows when the 103 came, but tells only afterwards, and not every browser does.
          async lookForHint(url) {
            await new Promise(done => setTimeout(done, 50));
            const timing = performance.getEntriesByName(new URL(url, location).href)[0];
            const interim = timing ? timing.firstInterimResponseStart : 0;
            if (!interim) return "this browser keeps the 103 to itself: try curl";
            this.mark("interim", interim - timing.startTime);
            return "";
          }

          listen() {
            return new Promise((done, failed) => {
              const source = new EventSource(this.path);
              source.onopen = () => this.mark("head");
              source.onmessage = () => {
                this.mark("content");
                if (this.pieces < 6) return;
                source.close();
                done("6 events, then you left");
              };
              source.onerror = () => {
                source.close();
                failed(new Error("the stream broke"));
              };
            });
          }
        }

        const lanes = [...document.querySelectorAll(".lane")].map(element => new Lane(element));
        all.addEventListener("click", async () => {
          all.disabled = true;
          await Promise.all(lanes.map(lane => lane.run()));
          all.disabled = false;
        });

        for (const span of document.querySelectorAll("[data-url]")) span.textContent = location.origin + span.dataset.url;
        for (const button of document.querySelectorAll("[data-copies]"))
          button.addEventListener("click", async () => {
            const code = document.getElementById(button.dataset.copies);
            getSelection().selectAllChildren(code);
            try {
              await navigator.clipboard.writeText(code.textContent);
              button.textContent = "Copied";
            } catch {
              button.textContent = "Selected";
            }
            setTimeout(() => { button.textContent = "Copy"; }, 1500);
          });

        // Each proxy on the way signs with Via; without one, nobody is in between.
        fetch("/style.css", { method: "HEAD", cache: "no-store" }).then(response => {
          const via = response.headers.get("via");
          document.getElementById("way").classList.toggle("direct", !via);
          document.getElementById("via").append(via ? " It came via " + via + "." : " You are talking to the origin directly.");
        });

        """#
}
