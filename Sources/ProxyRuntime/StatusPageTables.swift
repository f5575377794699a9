extension StatusPage {
    /// The script's second part: small drawings, and tables of them that are sorted, filtered, and turn into cards.
    static let tablesScript = #"""

        // Small drawings.

        const svg = (tag, className) => {
          const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
          element.setAttribute("class", className);
          return element;
        };

        // A line through the last minute, and an area from it to the points' other height.
        function spark(parent) {
          const element = svg("svg", "spark"), area = svg("path", "area"), line = svg("path", "line");
          element.setAttribute("viewBox", "0 0 " + (SPAN - 1) + " 20");
          element.setAttribute("preserveAspectRatio", "none");
          element.setAttribute("aria-hidden", "true");
          line.setAttribute("vector-effect", "non-scaling-stroke");
          element.append(area, line);
          parent.append(element);
          return points => {
            const at = (x, y) => Math.max(0, x).toFixed(1) + " " + (19 - 18 * y).toFixed(1);
            const there = points.map(([x, y]) => at(x, y)).join("L"), back = points.map(([x, , other]) => at(x, other)).reverse().join("L");
            line.setAttribute("d", there && "M" + there + "h.01");
            area.setAttribute("d", there && "M" + there + "L" + back + "Z");
          };
        }

        // The classes of statuses: a bar, and in words.
        function stack(cell) {
          const bar = el("div", "stack"), words = el("span");
          const parts = CODES.map(code => el("i", "c" + code));
          bar.append(...parts);
          cell.append(bar, words);
          return row => {
            const codes = row.figures.codes ?? [], total = sum(codes);
            parts.forEach((part, i) => { part.style.flexGrow = codes[i] ?? 0; part.hidden = !codes[i]; });
            put(words, total ? CODES.flatMap((code, i) => codes[i] ? [code + "\u00a0" + percent(codes[i] / total).replace(/ /g, "\u00a0")] : [])
              .join(", ") : "\u2013");
          };
        }

        // Where head and content lie on one scale of time: silence up to the head, then the way is open.
        const FROM = -4, TO = 2; // powers of ten of a second
        const TICKS = ["0.1\u202fms", "1", "10", "100", "1\u202fs", "10", "100\u202fs"];
        const place = s => Math.min(100, Math.max(0, (Math.log10(s) - FROM) / (TO - FROM) * 100));
        function track(cell) {
          const parts = ["silence", "gap", "to head", "to content", "mark content", "mark head"].map(name => el("i", name));
          const [silence, gap, toHead, toContent, content, head] = parts;
          const track = el("div", "track", ...parts);
          track.setAttribute("aria-hidden", "true");
          cell.append(track);
          const stretch = (part, from, to) => {
            part.hidden = from === null || to === null;
            part.style.left = place(from) + "%";
            part.style.width = Math.max(0, place(to) - place(from)) + "%";
          };
          return row => {
            const [h, h99, c, c99] = ["head", "content"].flatMap(name => [row.quantile(name, .5), row.quantile(name, .99)]);
            stretch(silence, h && 10 ** FROM, h);
            stretch(gap, h, c);
            stretch(toHead, h, h99);
            stretch(toContent, c, c99);
            for (const [mark, s] of [[head, h], [content, c]]) {
              mark.hidden = s === null;
              mark.style.left = place(s) + "%";
            }
          };
        }

        // Tables.

        const words = (title, width, text, sort = text) => ({ title, width, sort, make: cell => row => put(cell, text(row)) });
        const numbers = (title, width, text, value) => words(title, width, row => text(value(row)), value);
        const naming = (title, width, name, sub = () => "", note = () => "") => ({ title, width, sort: name, make: cell => {
          const parts = [el("b"), el("span", "sub"), el("span", "tag")];
          cell.classList.add("name");
          cell.append(...parts);
          return row => [name, sub, note].forEach((text, i) => { put(parts[i], text(row)); parts[i].hidden = !text(row); });
        } });
        const TIMES = [["p50", .5], ["p90", .9], ["p99", .99]];
        const times = (name, title) => ({ title, width: 17, sort: row => row.quantile(name, .99), className: name,
          head: () => el("div", "of", ...TIMES.map(([label]) => el("span", "", label))), make: cell => {
            const numbers = TIMES.map(([label]) => [el("small", "", label + " "), el("span")]);
            cell.append(el("div", "times", ...numbers.map(pair => el("div", "", ...pair))));
            const draw = spark(cell);
            return row => {
              numbers.forEach(([, number], i) => put(number, time(row.quantile(name, TIMES[i][1]))));
              draw(row.times(name));
            };
          } });
        const traffic = [
          { title: "Requests/s", width: 10, className: "requests", sort: row => row.rate("codes"), make: cell => {
            const number = el("div"), draw = (cell.append(number), spark(cell));
            return row => { put(number, rate(row.rate("codes"))); draw(row.rates("codes")); };
          } },
          { title: "Answers", width: 13, className: "answers", sort: row => (row.figures.codes ?? [])[3] ?? 0, make: stack },
          { title: "Head and content, medians", label: "Head and content, medians, from 0.1 ms to 100 s", width: 23, className: "lane",
            sort: row => row.quantile("head", .5), make: track, head: () => el("div", "axis", ...TICKS.map(text => el("span", "", text))) },
          times("head", "Time to head"), times("content", "Time to first content"),
        ];

        class Table {
          lines = new Map();
          ranks = new Map();
          drawn = 0;

          constructor(id, columns, { cards = 0, none = "" } = {}) {
            Object.assign(this, { id, columns, none, section: $(id), isShort: true });
            const find = selector => this.section.querySelector(selector);
            [this.table, this.body, this.empty, this.more, this.counted] = ["table", "tbody", ".none", ".all", "small"].map(find);
            this.select = find("select");
            this.heads = columns.map((column, i) => {
              const button = el("button", "", column.title);
              button.type = "button";
              button.addEventListener("click", () => this.sortBy(column));
              const head = el("th", column.className, button, ...(column.head ? [column.head()] : []));
              head.scope = "col";
              head.setAttribute("role", "columnheader");
              head.style.width = column.width + "%";
              find("thead tr").append(head);
              this.select.add(new Option(column.title, i));
              return head;
            });
            this.select.addEventListener("change", () => this.sortBy(columns[this.select.value], true));
            this.more.addEventListener("click", () => { this.isShort = !this.isShort; this.draw(true); });
            const narrow = matchMedia("(max-width: " + cards + "px)");
            const turn = () => {
              this.table.classList.toggle("cards", narrow.matches);
              this.section.classList.toggle("cards-on", narrow.matches);
            };
            narrow.addEventListener("change", turn);
            turn();
          }

          // Numbers go from the largest, names from A; a second click turns that round, a third lets go.
          sortBy(column, isAnew) {
            if (this.column !== column || isAnew) Object.assign(this, { column, clicks: 1 });
            else if (++this.clicks > 2) this.column = undefined;
            const isText = this.column && this.all.some(row => typeof column.sort(row) === "string");
            this.sign = isText === (this.clicks === 1) ? 1 : -1;
            this.select.value = this.columns.indexOf(this.column) + 1 ? this.columns.indexOf(this.column) : "";
            this.heads.forEach((head, i) => {
              if (this.columns[i] !== this.column) head.removeAttribute("aria-sort");
              else head.setAttribute("aria-sort", this.sign > 0 ? "ascending" : "descending");
            });
            this.draw(true);
          }

          compare(a, b) {
            const [x, y] = [this.column.sort(a), this.column.sort(b)];
            if (x === null || y === null) return (x === null) - (y === null);
            return this.sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y || 0);
          }

          // Lines that are being looked at keep their places: they are sorted every few seconds, and not under the pointer.
          order(rows, isAsked) {
            const isStill = !isAsked && (this.drawn++ % 5 || this.body.matches(":hover"));
            const rank = row => this.ranks.get(row.key) ?? this.ranks.size;
            if (this.column) rows.sort(isStill ? (a, b) => rank(a) - rank(b) : (a, b) => this.compare(a, b));
            this.ranks = new Map(rows.map((row, i) => [row.key, i]));
            return rows;
          }

          line(row) {
            const element = el("tr");
            element.setAttribute("role", "row");
            const updates = this.columns.map((column, i) => {
              const cell = el(i ? "td" : "th", column.className);
              if (!i) cell.scope = "row";
              cell.setAttribute("role", i ? "cell" : "rowheader");
              cell.dataset.label = column.label ?? column.title;
              element.append(cell);
              return column.make(cell);
            });
            return { element, update: row => updates.forEach(update => update(row)) };
          }

          draw(isAsked) {
            this.all = kind(this.id).filter(row => this.id !== "failures" || sum(row.total.failures));
            const wanted = $("filter").value.toLowerCase().split(/\s+/);
            const matching = this.order(this.all.filter(row => wanted.every(word => row.search.includes(word))), isAsked);
            const few = this.table.classList.contains("cards") ? 10 : 25;
            const shown = this.isShort ? matching.slice(0, few) : matching;
            for (const key of this.lines.keys()) if (!rows.has(key)) this.lines.delete(key);
            shown.forEach((row, i) => {
              let line = this.lines.get(row.key);
              if (!line) this.lines.set(row.key, line = this.line(row));
              line.update(row);
              if (this.body.children[i] !== line.element) this.body.insertBefore(line.element, this.body.children[i] ?? null);
            });
            while (this.body.children.length > shown.length) this.body.lastChild.remove();
            this.section.hidden = !this.all.length && !this.none;
            this.table.hidden = !shown.length;
            this.empty.hidden = !!shown.length;
            put(this.empty, this.all.length ? "No name here matches the filter." : this.none);
            const [some, total] = [matching.length, this.all.length];
            put(this.counted, some < total ? some + " of " + total : total > 1 ? "" + total : "");
            this.more.hidden = matching.length <= few;
            put(this.more, this.isShort ? "Show all " + matching.length : "Show the first " + few);
          }
        }

        const side = reason => /^(upstream|tunnel)_/.test(reason) ? "servers'" : /^(queue_|out_of|shut_)/.test(reason) ? "proxy's" : "clients'";
        const isUp = server => server.up;
        const state = ({ data }) => data.up ? "up" : "down" + (data.reason ? ", " + data.reason : "");
        const daysLeft = row => (row.data.not_after_seconds - latest.time_seconds) / 86400;
        const ending = row => daysLeft(row) < 0 ? "ended " + long(-daysLeft(row) * 86400) + " ago" : "in " + long(daysLeft(row) * 86400);
        const titled = ({ data }) => data.route ? data.host + data.route : "no route found";
        const running = ({ streams, tunnels }) =>
          (streams ? ", " + many(streams, "stream") : "") + (tunnels ? ", " + many(tunnels, "tunnel") : "");
        const way = ({ data }) => data.listener + (!data.route ? "" : data.upstream ? " \u2192 " + data.upstream
          : data.has_server ? " \u2192 its target" : ", answered by Headfirst") + running(data);

        const tables = [
          new Table("routes", [naming("Route", 20, titled, way, row => row.held ? "holds its heads" : ""), ...traffic], { cards: 1180 }),
          new Table("upstreams", [naming("Upstream", 20, row => row.data.name,
            ({ data: { servers } }) => servers.filter(isUp).length + " of " + many(servers.length, "server") + " up"), ...traffic], { cards: 1180 }),
          new Table("servers", [
            naming("Server", 24, row => row.data.address),
            words("Upstream", 18, row => row.data.upstream),
            { title: "State", width: 22, className: "state", sort: state, make: cell => {
              const said = cell.appendChild(el("span"));
              return row => { put(said, state(row)); said.className = row.data.up ? "up" : "down"; };
            } },
            numbers("Connections", 11, count, row => row.data.connections),
            numbers("Connects/s", 11, rate, row => row.rate("connects")),
            numbers("Failed connects", 14, count, row => row.sum("failed")),
          ], { cards: 640 }),
          new Table("listeners", [
            naming("Listener", 40, row => row.data.name, row => row.data.addresses.join(", ")),
            numbers("Heads/s", 20, rate, row => row.rate("hold")),
            numbers("Held, median", 20, time, row => row.quantile("hold", .5)),
            numbers("99.9 % within", 20, time, row => row.quantile("hold", .999)),
          ], { cards: 640 }),
          new Table("failures", [
            naming("Reason", 56, row => row.data, row => "on the " + side(row.data) + " side"),
            numbers("Last minute", 22, count, row => sum(row.recent.failures ?? [])),
            numbers("Since start", 22, count, row => sum(row.total.failures)),
          ], { none: "None since the start." }),
          new Table("certificates", [
            naming("Name", 55, row => row.data.name, row => row.data.listener),
            { title: "Ends", width: 45, sort: daysLeft, make: cell => {
              const said = cell.appendChild(el("span")), day = cell.appendChild(el("span", "sub"));
              return row => {
                put(said, ending(row));
                put(day, new Date(row.data.not_after_seconds * 1000).toISOString().slice(0, 10));
                said.className = daysLeft(row) < 14 ? "soon" : "";
              };
            } },
          ]),
        ];

        """#
}
