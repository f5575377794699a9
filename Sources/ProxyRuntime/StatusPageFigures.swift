extension StatusPage {
    /// The script's first part: reads a document a second, and keeps what was counted between them for a minute.
    ///
    /// Names come from a configuration file or from servers: they enter the page as text, never as markup.
    static let figuresScript = #"""

        "use strict";
        const SPAN = 60; // seconds that a look back takes in
        const CODES = ["2xx", "3xx", "4xx", "5xx", "1xx", "none"];
        const $ = id => document.getElementById(id);

        const el = (tag, className = "", ...children) => {
          const element = document.createElement(tag);
          if (className) element.className = className;
          element.append(...children);
          return element;
        };
        // Names may hold anything: what would control the text around it is shown as what it is, a character out of place.
        const plain = text => text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
        const put = (element, text) => { if (element.textContent !== plain(text)) element.textContent = plain(text); };

        // Texts.

        const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
        const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
        const count = n => n < 1e5 ? grouped.format(n) : compact.format(n);
        const rate = n => n === 0 ? "0" : n < .05 ? "< 0.1" : n < 9.95 ? n.toFixed(1) : count(n);
        const percent = n => n === 0 || n === 1 ? n * 100 + " %" : n > .999 ? "> 99.9 %" : n < .001 ? "< 0.1 %"
          : (n < .0995 || n > .99 ? (n * 100).toFixed(1) : Math.round(n * 100)) + " %";
        const bytes = n => n < 1048576 ? (n / 1024).toFixed(0) + " KiB" : n < 1073741824 ? (n / 1048576).toFixed(1) + " MiB"
          : (n / 1073741824).toFixed(2) + " GiB";
        const many = (n, one, more = one + "s") => count(n) + " " + (n === 1 ? one : more);
        const long = s => s < 99 ? many(Math.max(0, Math.round(s)), "second") : s < 5940 ? many(Math.round(s / 60), "minute")
          : s < 172800 ? many(Math.round(s / 3600), "hour") : many(Math.floor(s / 86400), "day");
        const clock = ms => new Date(ms).toLocaleTimeString("en-GB");

        function time(s) {
          if (s === null) return "\u2013";
          if (s < bounds[0]) return "< " + time(bounds[0]);
          if (s === Infinity) return "> " + time(bounds.at(-1));
          const [n, unit] = s < .000995 ? [s * 1e6, "\u00b5s"] : s < .995 ? [s * 1e3, "ms"] : s < 99.5 ? [s, "s"] : [s / 60, "min"];
          return (n < 9.95 ? n.toFixed(1).replace(".0", "") : n < 99.5 ? Math.round(n) : Math.round(n / 10) * 10) + "\u202f" + unit;
        }

        // Figures: named lists of counters, which add up and differ whatever they count.

        let bounds = [];
        const sum = list => list.reduce((a, b) => a + b, 0);

        function add(into, from, sign = 1) {
          for (const name in from) {
            const list = into[name] ??= [];
            from[name].forEach((n, i) => { list[i] = (list[i] ?? 0) + sign * n; });
          }
          return into;
        }

        // What was counted since `then`. Counters that fell began anew.
        function rise(now, then) {
          const result = {};
          for (const name in now) {
            const before = then[name] ?? [];
            const fell = now[name].some((n, i) => n < (before[i] ?? 0));
            result[name] = fell ? now[name] : now[name].map((n, i) => n - (before[i] ?? 0));
          }
          return result;
        }

        // The time within which a share of a histogram lies. In a bucket it is spread evenly over a logarithmic scale.
        function quantile(buckets = [], share) {
          let rest = share * sum(buckets), i = 0;
          if (!rest) return null;
          while (i < buckets.length - 1 && (rest > buckets[i] || !buckets[i])) rest -= buckets[i++];
          return i === 0 ? bounds[0] / 2 : i === bounds.length ? Infinity
            : bounds[i - 1] * (bounds[i] / bounds[i - 1]) ** Math.min(1, rest / buckets[i]);
        }

        // What a line of a table tells about, through all documents.
        class Row {
          steps = [];
          recent = {};
          total = {};

          constructor(key, names) {
            this.key = key;
            this.search = names.join(" ").toLowerCase();
          }

          take(data, total, step, now) {
            Object.assign(this, { data, total });
            if (step) {
              this.steps.push({ ...now, ...step });
              add(this.recent, step);
            }
            while (this.steps.length && this.steps[0].time <= now.time - SPAN) {
              const { time, seconds, ...old } = this.steps.shift();
              add(this.recent, old, -1);
            }
            this.held = this.total.held && heldHeads(this);
          }

          get figures() { return period === "recent" ? this.recent : this.total; }
          sum(name) { return sum(this.figures[name] ?? []); }
          rate(name) { return covered() ? this.sum(name) / covered() : 0; }
          quantile(name, share) { return quantile(this.figures[name], share); }
          points(draw) {
            const now = latest.time_seconds;
            return this.steps.flatMap(step => {
              const [y, other] = draw(step);
              return y === null ? [] : [[SPAN - 1 - (now - step.time), y, other]];
            });
          }
          rates(name) {
            const values = this.points(step => [sum(step[name] ?? []) / step.seconds, 0]);
            const top = Math.max(1, ...values.map(([, y]) => y));
            return values.map(([x, y]) => [x, y / top, 0]);
          }
          times(name) {
            const values = this.points(step => [quantile(step[name], .5), quantile(step[name], .99)]);
            const logs = values.map(([x, ...ys]) => [x, ...ys.map(y => Math.log2(Math.min(y, bounds.at(-1))))]);
            const low = Math.min(...logs.map(([, y]) => y)), high = Math.max(...logs.map(([, , y]) => y));
            const room = Math.max(0, 3 - (high - low)) / 2; // at least three doublings, or noise looks like trouble
            return logs.map(([x, ...ys]) => [x, ...ys.map(y => (y - low + room) / (high - low + 2 * room))]);
          }
        }

        // Heads that came only with the content, and after more than half a second, if most slow ones did. The last minute
        // tells whether a cure helped; where it has nothing to tell, all the time does.
        function heldHeads(row) {
          const isRecent = sum(row.recent.head ?? []) >= 5;
          const { held = [0], head = [] } = isRecent ? row.recent : row.total;
          const slow = Math.max(held[0], sum(head.slice(bounds.findIndex(bound => bound >= .5) + 1)));
          return held[0] >= 3 && held[0] >= slow / 2 ? { held: held[0], slow, isRecent } : null;
        }

        // From documents to rows.

        let latest = null, all = null, period = "recent", rows = new Map();
        const covered = () => period === "total" ? latest.time_seconds - latest.start_seconds : sum(all.steps.map(step => step.seconds));
        const kind = name => [...rows.values()].filter(row => row.key.startsWith('["' + name + '"'));

        function take(status) {
          if (latest && (status.start_seconds !== latest.start_seconds || status.time_seconds < latest.time_seconds)) rows = new Map();
          const isFirst = rows.size === 0, found = new Map();
          const now = { time: status.time_seconds, seconds: isFirst ? 0 : status.time_seconds - latest.time_seconds };
          if (!isFirst && !now.seconds) return;
          bounds = status.histogram_bounds_seconds;
          const row = (kind, names, data, total, step) => {
            let key = JSON.stringify([kind, ...names]);
            while (found.has(key)) key += "+";
            const known = rows.get(key), row = known ?? new Row(key, names);
            // What a new row brings with it was counted nobody knows when: it is in its total only.
            row.take(data, total, isFirst ? null : step ?? (known ? rise(total, known.total) : {}), now);
            found.set(key, row);
            return row;
          };

          // What several routes share is the sum of theirs, so that a route that goes takes nothing back.
          const group = (kind, names, data, members) => row(kind, names, data, members.reduce((a, m) => add(a, m.total), {}),
            members.reduce((a, { steps }) => add(a, counters(steps.at(-1))), {}));
          const counters = ({ time, seconds, ...rest } = {}) => rest;

          const routes = status.routes.map(route => row("routes", [route.listener, route.host, route.route, route.upstream], route, {
            codes: CODES.map(code => route.requests[code]), bytes: [route.response_bytes], held: [route.held_heads],
            head: route.head?.buckets ?? [], content: route.first_content?.buckets ?? [] }));
          for (const upstream of status.upstreams)
            group("upstreams", [upstream.name], upstream, routes.filter(row => row.data.upstream === upstream.name));
          for (const { name, servers } of status.upstreams)
            for (const server of servers)
              row("servers", [name, server.address], { upstream: name, ...server },
                { connects: [server.connects_total], failed: [server.connect_failures_total] });
          const listeners = status.listeners.map(listener =>
            row("listeners", [listener.name, ...listener.addresses], listener, { hold: listener.hold.buckets }));
          for (const [reason, n] of Object.entries(status.failures)) row("failures", [reason], reason, { failures: [n] });
          for (const certificate of [...status.certificates].sort((a, b) => a.not_after_seconds - b.not_after_seconds))
            row("certificates", [certificate.listener, certificate.name], certificate, {});
          const process = row("process", [], null, { failures: Object.values(status.failures), accepted: [status.connections.accepted_total],
            cpu: [status.process.cpu_seconds], retries: [status.retries_total], lost: [status.access_log_lost] });
          all = group("all", [], null, [...routes, ...listeners, process]);
          if (!isFirst) all.steps.at(-1).open = [status.exchanges * now.seconds]; // a gauge, drawn as a rate
          rows = found;
          latest = status;
        }

        """#
}
