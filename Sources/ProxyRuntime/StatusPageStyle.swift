extension StatusPage {
    /// The page's style: light and dark; tables turn into cards where there is no room for them.
    static let style = """

        :root {
          color-scheme: light dark;
          --paper: #f7f5f0; --card: #fffefb; --ink: #17191e; --soft: #646a76; --line: #e4e0d7; --grid: #efece4;
          --head: #e5432d; --head-ink: #cf3520; --content: #12806f; --interim: #c58407; --open: #f3c3b9; --hush: #d3cec3;
          --bad: #a8123a; --moved: #8a93a3; --tunnel: #6d5bd0; --bad-paper: #fbe9ea; --warn-paper: #fbf1da;
          --shadow: 0 1px 2px #3a2f1a0f, 0 12px 40px -12px #3a2f1a24;
          --mono: ui-monospace, "SF Mono", "Cascadia Code", "JetBrains Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
          font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Inter, Roboto, "Noto Sans", sans-serif;
        }
        @media (prefers-color-scheme: dark) {
          :root {
            --paper: #0f1115; --card: #171a20; --ink: #eceae4; --soft: #99a0ad; --line: #2a2f38; --grid: #20242c;
            --head: #ff5c42; --head-ink: #ff7a63; --content: #35c2a6; --interim: #f0b13c; --open: #57312c; --hush: #3b414c;
            --bad: #ff7593; --moved: #7d8798; --tunnel: #9d8ff5; --bad-paper: #2b181e; --warn-paper: #29220f;
            --shadow: 0 1px 2px #0006, 0 16px 48px -16px #000c;
          }
        }
        * { box-sizing: border-box; }
        [hidden] { display: none !important; }
        body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
        .wrap { max-width: 1280px; margin: 0 auto; padding: 0 28px; }
        h1, h2, p, ul, dl, dd, pre, fieldset { margin: 0; padding: 0; border: 0; }
        h2 { font-size: 19px; letter-spacing: -.018em; font-weight: 680; }
        h2 small { font-size: 13px; font-weight: 400; letter-spacing: 0; color: var(--soft); margin-left: 4px; }
        code, pre { font-family: var(--mono); font-size: .88em; }
        a { color: var(--head-ink); }
        button, select, input { font: inherit; color: inherit; }
        button { cursor: pointer; }
        :focus-visible { outline: 2px solid var(--head); outline-offset: 2px; }
        .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

        .bar { display: flex; align-items: center; gap: 8px 16px; padding-top: 20px; }
        .brand { display: flex; align-items: center; gap: 10px; font-weight: 700; letter-spacing: -.01em; }
        .brand svg { width: 26px; height: 26px; }
        .brand rect { fill: var(--head); }
        .brand path { fill: none; stroke: #fff; stroke-width: 4; }
        .node { flex: 1; min-width: 0; color: var(--soft); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
        .pill {
          display: flex; align-items: center; gap: 8px; border: 1px solid var(--line); border-radius: 999px; background: var(--card);
          padding: 4px 14px 4px 11px; font-size: 13px; font-weight: 600; white-space: nowrap;
        }
        .pill::before { content: ""; width: 9px; height: 9px; border-radius: 50%; background: var(--content); }
        .running .pill::before { animation: beat 2s infinite; }
        .draining .pill::before { background: var(--interim); border-radius: 2px; }
        .waiting .pill::before { background: var(--hush); }
        .lost .pill { border-color: var(--bad); color: var(--bad); }
        .lost .pill::before { background: none; border: 2px solid var(--bad); border-radius: 2px; }
        @keyframes beat { 50% { opacity: .35; } }
        .lost .tiles, .lost .part { opacity: .65; filter: grayscale(1); }

        .hero { padding: 34px 0 26px; }
        h1 { font-size: clamp(31px, 4.4vw, 50px); line-height: 1.05; letter-spacing: -.038em; font-weight: 780; text-wrap: balance; }
        h1 em { font-style: normal; color: var(--content); }
        .troubled h1 em, .lost h1 em { color: var(--head); }
        .draining h1 em { color: var(--interim); }
        .hero > p { margin-top: 12px; font-size: 16px; color: var(--soft); overflow-wrap: anywhere; }
        .notices { list-style: none; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 10px; margin-top: 20px; }
        .notices > :has([open]) { grid-column: 1 / -1; }
        .notices:empty { display: none; }
        .notices > li {
          border-radius: 12px; padding: 12px 18px 13px; background: var(--warn-paper); border-left: 5px solid var(--interim);
          overflow-wrap: anywhere;
        }
        .notices > .bad { background: var(--bad-paper); border-color: var(--bad); }
        .notices b { font-weight: 680; }
        .notices ul { padding-left: 20px; margin: 4px 0 2px; }
        .notices li p { max-width: 100ch; }
        .notices pre { white-space: pre-wrap; margin-top: 5px; max-height: 12em; overflow-y: auto; }
        .notices details { margin-top: 6px; }
        .notices summary { cursor: pointer; font-weight: 600; color: var(--head-ink); width: fit-content; }
        .notices dl { display: grid; grid-template-columns: minmax(120px, auto) minmax(0, 1fr); gap: 6px 20px; margin: 8px 0; }
        .notices dt { font-weight: 600; }

        .tools {
          position: sticky; top: 0; z-index: 1; display: flex; gap: 12px; justify-content: space-between; padding: 10px 0;
          background: var(--paper);
        }
        .period { display: flex; background: var(--grid); border-radius: 10px; padding: 3px; }
        .period input { position: absolute; opacity: 0; }
        .period span { display: block; padding: 5px 14px; border-radius: 8px; font-size: 14px; cursor: pointer; color: var(--soft); white-space: nowrap; }
        .period :checked + span { background: var(--card); color: var(--ink); font-weight: 600; box-shadow: 0 1px 3px #0003; }
        .period :focus-visible + span { outline: 2px solid var(--head); }
        #filter {
          width: 300px; min-width: 0; border: 1px solid var(--line); border-radius: 10px; background: var(--card); padding: 6px 12px;
        }
        ::placeholder { color: var(--soft); opacity: 1; }

        .tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 14px; margin-top: 6px; }
        .tile, table, .part > dl, .none {
          background: var(--card); border: 1px solid var(--line); border-radius: 16px; box-shadow: var(--shadow);
        }
        .tile { padding: 14px 18px 13px; display: flex; flex-direction: column; gap: 3px; min-width: 0; }
        .tile h2 { font-size: 13.5px; font-weight: 600; color: var(--soft); letter-spacing: 0; }
        .promise { grid-column: span 2; }
        .big { display: flex; align-items: baseline; gap: 0 7px; flex-wrap: wrap; font-variant-numeric: tabular-nums; line-height: 1.25; }
        .big b { font-size: 29px; font-weight: 720; letter-spacing: -.03em; white-space: nowrap; }
        .promise .big b { font-size: 38px; color: var(--head-ink); }
        .promise .big span { margin-right: 18px; }
        .big span, .more { font-size: 13px; color: var(--soft); }
        .more { margin-top: auto; overflow-wrap: anywhere; }
        .tile .spark { height: 38px; margin: 4px 0; }
        .bars { display: flex; gap: 4px; margin: 6px 0 4px; flex: 1; }
        .bars span { flex: 1; min-width: 0; display: flex; flex-direction: column; font: 10.5px/1.4 var(--mono); color: var(--soft); white-space: nowrap; }
        .bars i { flex: 1; min-height: 46px; display: flex; align-items: flex-end; border-bottom: 1px solid var(--hush); margin-bottom: 3px; }
        .bars b { flex: 1; background: var(--head); border-radius: 3px 3px 0 0; }
        .meter { height: 6px; border-radius: 3px; background: var(--grid); overflow: hidden; margin: 6px 0; }
        .meter i { display: block; height: 100%; background: var(--content); }
        .meter.full i { background: var(--bad); }

        .spark { display: block; width: 100%; height: 20px; overflow: visible; }
        .spark .area { fill: var(--content); opacity: .16; }
        .spark .line { fill: none; stroke: var(--content); stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }
        .head .spark .area, #head .area { fill: var(--head); }
        .head .spark .line, #head .line { stroke: var(--head); }
        #failures-sum .area { fill: var(--bad); }
        #failures-sum .line { stroke: var(--bad); }
        .requests .spark .area, #requests .area, #open .area { fill: var(--moved); }
        .requests .spark .line, #requests .line, #open .line { stroke: var(--moved); }
        .stack { display: flex; gap: 1px; height: 7px; border-radius: 4px; overflow: hidden; background: var(--grid); margin: 6px 0 5px; }
        .stack i { flex-basis: 0; }
        .tile .stack + span { font-size: 13px; color: var(--soft); }
        .c2xx { background: var(--content); } .c3xx { background: var(--moved); } .c4xx { background: var(--interim); }
        .c5xx { background: var(--bad); } .c1xx { background: var(--tunnel); } .cnone { background: var(--ink); }

        .part { padding-top: 34px; min-width: 0; }
        .title { display: flex; justify-content: space-between; align-items: baseline; gap: 16px; }
        .part > dl, .part table, .none { margin-top: 10px; }
        .none { padding: 14px 18px; color: var(--soft); }
        .sort { display: none; font-size: 13px; color: var(--soft); }
        .sort select { border: 1px solid var(--line); border-radius: 8px; background: var(--card); padding: 4px 6px; max-width: 130px; }
        .cards-on .sort { display: block; }
        table { width: 100%; border-spacing: 0; table-layout: fixed; font-variant-numeric: tabular-nums; }
        th, td { text-align: left; vertical-align: top; font-weight: 400; padding: 11px 12px; overflow-wrap: anywhere; }
        th:first-child, td:first-child { padding-left: 20px; }
        tbody > tr > * { border-top: 1px solid var(--line); }
        thead th { vertical-align: bottom; padding-bottom: 7px; font-size: 13px; color: var(--soft); }
        thead button { border: 0; background: none; padding: 0; font-weight: 600; text-align: left; }
        thead button:hover { color: var(--ink); }
        [aria-sort] button::after { content: ""; display: inline-block; margin-left: 5px; border: 4px solid transparent; }
        [aria-sort] button { color: var(--head-ink); }
        [aria-sort=descending] button::after { border-top-color: currentColor; transform: translateY(2px); }
        [aria-sort=ascending] button::after { border-bottom-color: currentColor; transform: translateY(-2px); }
        thead .head button::before, thead .content button::before {
          content: ""; display: inline-block; width: 4px; height: 12px; border-radius: 2px; margin-right: 7px; vertical-align: -1px;
          background: var(--head);
        }
        thead .content button::before { background: var(--content); }
        .of { display: grid; grid-template-columns: repeat(3, 1fr); font: 11.5px/1.4 var(--mono); }
        .axis { display: flex; justify-content: space-between; font: 11px/1.4 var(--mono); margin: 2px 0 0; }
        .axis span { width: 0; display: flex; justify-content: center; white-space: nowrap; }
        .name b, .sub, .clamp { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
        .name b { font-weight: 650; }
        .sub { font-size: 13px; line-height: 1.35; color: var(--soft); }
        .tag { display: inline-block; margin-top: 4px; border-radius: 6px; padding: 0 7px; font-size: 12px; font-weight: 600; background: var(--warn-paper);
          box-shadow: inset 0 0 0 1px var(--interim); }
        .answers { font-size: 12.5px; line-height: 1.4; color: var(--soft); }
        .lane { padding-right: 26px; }
        .times { display: grid; grid-template-columns: repeat(3, 1fr); font-size: 13.5px; white-space: nowrap; margin-bottom: 3px; }
        .times small { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
        .up::before, .down::before { content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 50%; background: var(--content); margin-right: 8px; }
        .down { color: var(--bad); font-weight: 600; }
        .down::before { background: none; border: 2px solid var(--bad); border-radius: 2px; }
        .soon { color: var(--bad); font-weight: 600; }
        .all { margin-top: 12px; border: 1.5px solid var(--line); background: none; border-radius: 10px; padding: 7px 16px; font-size: 14px; }
        .all:hover { border-color: var(--head); }

        .track { position: relative; height: 30px; border-right: 1px solid var(--grid);
          background: linear-gradient(90deg, var(--grid) 1px, transparent 1px) 0 0 / calc(100% / 6) 100%; }
        .track i { position: absolute; border-radius: 2px; }
        .silence { left: 0; top: 12px; height: 6px; background: repeating-linear-gradient(115deg, var(--hush) 0 2px, transparent 2px 6px); }
        .gap { top: 9px; height: 12px; background: var(--open); }
        .to { top: 14px; height: 2px; }
        .to.head, .mark.head { background: var(--head); }
        .to.content { top: 19px; }
        .to.content, .mark.content { background: var(--content); }
        .mark { top: 50%; transform: translate(-50%, -50%); transition: left .5s; }
        .mark.head { width: 5px; height: 26px; }
        .mark.content { width: 6px; height: 14px; margin-left: 6px; }

        .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 0 24px; align-items: start; }
        .part > dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 6px 22px; padding: 14px 20px; }
        .part dt { color: var(--soft); }
        .part dd { overflow-wrap: anywhere; }
        footer.wrap { padding-top: 30px; padding-bottom: 44px; font-size: 13px; color: var(--soft); }

        .cards, .cards tbody, .cards td, .cards tbody th { display: block; }
        .cards thead { display: none; }
        .cards { background: none; border: 0; box-shadow: none; border-radius: 0; }
        .cards tbody { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 12px; }
        .cards tr {
          display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px 18px; align-content: start; padding: 13px 16px;
          background: var(--card); border: 1px solid var(--line); border-radius: 14px; box-shadow: var(--shadow);
        }
        .cards tr > * { padding: 0 !important; border: 0; }
        .cards .name, .cards .lane { grid-column: 1 / -1; }
        .cards td::before { content: attr(data-label); display: block; font-size: 12px; line-height: 1.5; color: var(--soft); }
        .cards .times small { position: static; width: auto; height: auto; clip-path: none; display: block; font-size: 11px; line-height: 1.3; color: var(--soft); }

        .cards .times { font-size: 12px; }
        #servers .cards tr { grid-template-columns: repeat(6, minmax(0, 1fr)); }
        #servers .cards td { grid-column: span 2; }
        #servers .cards .state { grid-column: span 4; }
        #listeners .cards tr { grid-template-columns: repeat(3, minmax(0, 1fr)); }

        @media (max-width: 1000px) { .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
        @media (max-width: 640px) {
          .wrap { padding: 0 16px; }
          .bar { padding-top: 14px; }
          .hero { padding: 24px 0 16px; }
          .tools { gap: 8px; }
          .period span { padding: 5px 10px; font-size: 13px; }
          #filter { flex: 1; }
          .tiles { gap: 10px; }
          .tile { padding: 12px 14px 11px; }
          .big b { font-size: 24px; }
          .promise .big { gap: 0 5px; }
          .promise .big b { font-size: 25px; }
          .promise .big span { margin-right: 6px; }
          .bars { gap: 2px; }
          th, td { padding: 10px 6px; }
          th:first-child, td:first-child { padding-left: 14px; }
          .notices dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
          .notices dd { margin-bottom: 8px; }
          .notices > li { padding: 11px 14px; }
        }
        @media (prefers-reduced-motion: reduce) { *, *::before { animation: none !important; transition: none !important; } }

        """
}
