extension StatusPage {
    /// The script's third part: what to look at, the tiles, and the stream of documents that moves it all.
    static let script = #"""

        // What to look at.

        function* findings() {
          const { configuration, process, connections, access_log_lost: lost } = latest;

          for (const { data: { name, servers } } of kind("upstreams")) {
            const down = servers.filter(server => !server.up), isBad = down.length === servers.length;
            if (down.length) yield { key: "down " + name, isBad, title: "Upstream " + name + ": " +
              (isBad ? "no server is up" : down.length + " of " + servers.length + " servers are down"),
              list: down.map(server => (server.reason ?? "down") + ": " + server.address) };
          }

          const held = kind("routes").filter(row => row.held).sort((a, b) => b.held.held - a.held.held);
          if (held.length) yield { key: "held", title: held.length === 1 ? "A backend holds its heads" : "Backends hold their heads",
            text: "Headfirst sends a head on at once, but these come late, together with their content:", hasCure: true,
            list: held.map(row => count(row.held.held) + " of " + many(row.held.slow, "slow head") + " "
              + (row.held.isRecent ? "in the last minute" : "since the start") + ": " + titled(row)
              + (row.data.upstream ? " \u2192 " + row.data.upstream : "")) };

          const most = quantile(all.recent.hold, .99);
          if (most > .01 && sum(all.recent.hold) >= 20) yield { key: "hold", isBad: true, title: "Heads wait in Headfirst",
            text: "In the last minute one in a hundred was in its hands for more than " + time(most) + ". Most likely processors are short." };

          if (configuration.last_error) yield { key: "reload", isBad: true, title: "The last reload failed",
            text: "Configuration " + configuration.generation + " stays in use.", pre: configuration.last_error };

          const soon = kind("certificates").filter(row => daysLeft(row) < 14), isUrgent = row => daysLeft(row) < 3;
          for (const [isBad, list] of [[true, soon.filter(isUrgent)], [false, soon.filter(row => !isUrgent(row))]])
            if (list.length) yield { key: "certificates " + isBad, isBad,
              title: list.some(row => daysLeft(row) < 0) ? "Certificates have ended, or are about to" : "Certificates end soon",
              list: list.map(row => ending(row) + ": " + row.data.name + " (" + row.data.listener + ")") };

          for (const [name, n, limit] of [["clients' connections", connections.downstream, connections.downstream_max],
            ["descriptors", process.descriptors, process.descriptors_max]])
            if (limit && n >= limit * .85) yield { key: name, title: percent(n / limit) + " of all " + name + " are in use",
              text: count(n) + " of " + count(limit) + "." };

          if (lost) yield { key: "lost", title: "The access log is not complete",
            text: many(lost, "record") + " lost since the start, " + count(sum(all.recent.lost ?? []))
              + " in the last minute: the disk is full, or the log's reader too slow." };
        }

        const notices = new Map();
        function drawNotices(list) {
          const keys = new Set(list.map(notice => notice.key));
          for (const [key, notice] of notices) if (!keys.has(key)) { notice.element.remove(); notices.delete(key); }
          list.forEach(({ key, isBad, title, text = "", list = [], pre = "", hasCure }, i) => {
            let notice = notices.get(key);
            if (!notice) {
              const parts = [el("b"), el("p"), el("ul"), el("pre")];
              notice = { parts, element: el("li", isBad ? "bad" : "", ...parts) };
              if (hasCure) notice.element.append($("cure").content.cloneNode(true));
              notices.set(key, notice);
            }
            const [head, said, items, raw] = notice.parts;
            const lines = (list.length > 6 ? [...list.slice(0, 5), "and " + (list.length - 5) + " more"] : list).map(plain);
            notice.element.className = isBad ? "bad" : "";
            [[head, title], [said, text], [raw, pre]].forEach(([part, text]) => { put(part, text); part.hidden = !text; });
            if (items.textContent !== lines.join("")) items.replaceChildren(...lines.map(line => el("li", "", el("span", "clamp", line))));
            items.hidden = !lines.length;
            if ($("notices").children[i] !== notice.element) $("notices").insertBefore(notice.element, $("notices").children[i] ?? null);
          });
        }

        // The rest of the page.

        const tiles = Object.fromEntries(["requests", "failures-sum", "head", "content", "open", "connections"].map(id => {
          const [b, said, more] = ["b", ".big span", ".more"].map(selector => $(id).querySelector(selector));
          const middle = el("div");
          more.before(middle);
          return [id, { middle, say: (big, small, rest) => { put(b, big); put(said, small); put(more, rest); } }];
        }));
        for (const id of ["requests", "head", "content", "open"]) tiles[id].draw = spark(tiles[id].middle);
        const failureSpark = spark(tiles["failures-sum"].middle);
        const classes = stack(tiles.requests.middle);
        const meter = el("i");
        tiles.connections.middle.append(el("div", "meter", meter));

        const SHOWN = 12; // bars: up to 65 ms each its own, then one for all that is longer
        const bars = Array.from({ length: SHOWN + 1 }, (_, i) => {
          const bar = el("b"), label = el("span");
          $("hold-bars").append(el("span", "", el("i", "", bar), label));
          return { bar, label };
        });

        function drawTiles() {
          const { connections, exchanges, streams, tunnels } = latest;
          const back = covered() < SPAN - 2 ? long(covered()).replace(/^1 /, "") : "minute";
          const said = period === "total" ? "since the start" : "in the last " + back;
          put($("hold-median"), time(all.quantile("hold", .5)));
          put($("hold-most"), time(all.quantile("hold", .999)));
          put($("hold-note"), many(all.sum("hold"), "head") + " " + said + ", from the server's bytes to the client's socket.");
          const hold = all.figures.hold ?? [];
          const shown = [...hold.slice(0, SHOWN), sum(hold.slice(SHOWN))], top = Math.max(1, ...shown);
          bars.forEach(({ bar, label }, i) => {
            bar.style.height = shown[i] ? "max(2px, " + shown[i] / top * 100 + "%)" : "0";
            put(label, i === SHOWN ? "more" : i % 2 ? "\u00a0" : (i ? "" : "\u2264") + time(bounds[i]));
          });
          tiles.requests.say(rate(all.rate("codes")), "", "");
          tiles.requests.draw(all.rates("codes"));
          classes(all);
          for (const name of ["head", "content"]) {
            const [half, most, nearlyAll] = [.5, .9, .99].map(share => time(all.quantile(name, share)));
            tiles[name].say(half, "median", "90 % within " + most + ", 99 % within " + nearlyAll);
            tiles[name].draw(all.times(name));
          }
          const finished = all.sum("codes"), failed = all.sum("failures");
          tiles["failures-sum"].say(count(failed), finished ? percent(Math.min(1, failed / finished)) : "",
            many(all.sum("retries"), "further try", "further tries") + " " + said);
          failureSpark(all.rates("failures"));
          tiles.open.say(count(exchanges), "", many(streams, "stream") + ", " + many(tunnels, "tunnel"));
          tiles.open.draw(all.rates("open"));
          const share = connections.downstream_max ? connections.downstream / connections.downstream_max : 0;
          tiles.connections.say(count(connections.downstream), connections.downstream_max ? "of " + count(connections.downstream_max) : "",
            rate(all.rate("accepted")) + " new a second. To servers: " + count(connections.upstream) + ", "
              + count(connections.idle_upstream) + " of them idle");
          meter.style.width = share * 100 + "%";
          meter.parentElement.classList.toggle("full", share >= .85);
        }

        function drawProcess() {
          const { process, configuration: c, version, workers, time_seconds: now } = latest;
          const facts = [
            ["Version", version], ["Up for", long(now - latest.start_seconds)], ["Workers", "" + workers],
            ["Processor", covered() ? percent(all.sum("cpu") / covered()) + " of one" : "\u2013"], ["Memory", bytes(process.resident_bytes)],
            ["Descriptors", count(process.descriptors) + " of " + count(process.descriptors_max)],
            ["Configuration", "number " + c.generation + ", taken " + long(now - c.taken_seconds) + " ago"],
            ["Reloads", c.reloads_done + " done, " + c.reloads_failed + " failed" + (c.last_error ? "; the last failed" : "")],
            ["Lost log records", count(latest.access_log_lost)],
          ];
          if ($("process").children.length === 0) $("process").append(...facts.flatMap(() => [el("dt"), el("dd")]));
          facts.flat().forEach((text, i) => put($("process").children[i], text));
        }

        let heard = 0; // when the last document came, by this machine's clock
        const isLost = () => Date.now() - heard > 4000;

        // The first line's two halves, the second line, and the state's name.
        function headlines(found) {
          const { state, exchanges, routes, upstreams } = latest, since = "since " + clock(heard), n = found.length;
          if (isLost()) return ["No answer", since + ".", "What follows is what was known then. The page asks again by itself.", "no answer " + since];
          if (state === "draining") return ["Draining.", "Running exchanges end.", "The probe readyz fails, so that no new clients are sent here; "
            + many(exchanges, "exchange") + " still " + (exchanges === 1 ? "runs." : "run."), state];
          return [found.some(({ key }) => key === "hold") ? "Heads wait here." : "Heads go first.",
            n === 0 ? "All is well." : n === 1 ? "One thing to look at." : n + " things to look at.",
            "Up for " + long(latest.time_seconds - latest.start_seconds) + ", with " + many(routes.filter(({ route }) => route).length, "route")
              + " and " + many(upstreams.length, "upstream") + ".", state];
        }

        function draw() {
          if (!latest) return;
          const found = [...findings()].sort((a, b) => !!b.isBad - !!a.isBad);
          document.body.className = isLost() ? "lost" : latest.state + (found.length ? " troubled" : "");
          document.title = (isLost() ? "(lost) " : found.length ? "(" + found.length + ") " : "") + plain(latest.node) + ", Headfirst";
          if (document.hidden) return;
          put($("node"), latest.node);
          headlines(found).forEach((text, i) => put($(["headline", "verdict", "summary", "pill"][i]), text));
          drawNotices(found);
          drawTiles();
          drawProcess();
          for (const table of tables) table.draw();
        }

        // An EventSource asks again by itself after a broken stream, but gives up on an answer that is none.
        const opened = Date.now();
        let source = null, begun = 0;
        function listen() {
          source?.close();
          begun = Date.now();
          source = new EventSource("status/events");
          source.onmessage = event => {
            try { take(JSON.parse(event.data)); } catch (error) { return console.error("not a status document:", error); }
            heard = Date.now();
            draw();
          };
        }
        setInterval(() => {
          const isSilent = Date.now() - Math.max(heard, begun) > 15000;
          if (isSilent || (source.readyState === EventSource.CLOSED && Date.now() - begun > 3000)) listen();
          if (!latest && Date.now() - opened > 4000) put($("pill"), "no answer yet");
          if (isLost()) draw();
        }, 1000);

        for (const radio of document.querySelectorAll("[name=period]"))
          radio.addEventListener("change", () => { period = radio.value; if (latest) draw(); });
        $("filter").addEventListener("input", () => { if (latest) tables.forEach(table => table.draw(true)); });
        document.addEventListener("visibilitychange", draw);
        listen();

        """#
}
