extension DemoPage {
    /// The page's style: light and dark, one column on a phone.
    static let style = """

        :root {
          color-scheme: light dark;
          --paper: #f7f5f0; --card: #fffefb; --ink: #17191e; --soft: #646a76; --line: #e4e0d7; --grid: #efece4;
          --head: #e5432d; --head-ink: #cf3520; --content: #12806f; --interim: #c58407; --open: #f3c3b9; --hush: #d3cec3;
          --shadow: 0 1px 2px #3a2f1a0f, 0 12px 40px -12px #3a2f1a24;
          --mono: ui-monospace, "SF Mono", "Cascadia Code", "JetBrains Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
          font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Inter, Roboto, "Noto Sans", sans-serif;
        }
        @media (prefers-color-scheme: dark) {
          :root {
            --paper: #0f1115; --card: #171a20; --ink: #eceae4; --soft: #99a0ad; --line: #2a2f38; --grid: #20242c;
            --head: #ff5c42; --head-ink: #ff7a63; --content: #35c2a6; --interim: #f0b13c; --open: #57312c; --hush: #3b414c;
            --shadow: 0 1px 2px #0006, 0 16px 48px -16px #000c;
          }
        }
        * { box-sizing: border-box; }
        body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
        .wrap { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
        h1, h2, p, ul, pre { margin: 0; }
        code, pre { font-family: var(--mono); }
        button { font: inherit; color: inherit; cursor: pointer; }
        :focus-visible { outline: 2px solid var(--head); outline-offset: 3px; }

        .bar { display: flex; align-items: center; justify-content: space-between; gap: 16px; padding-top: 22px; }
        .brand { display: flex; align-items: center; gap: 10px; font-weight: 700; letter-spacing: -.01em; }
        .brand svg { width: 26px; height: 26px; }
        .brand rect { fill: var(--head); }
        .brand path { fill: none; stroke: #fff; stroke-width: 4; }
        .way { display: flex; align-items: center; gap: 10px; font-size: 13px; color: var(--soft); }
        .way i { width: 28px; height: 0; border-top: 1.5px solid var(--hush); position: relative; }
        .way i::after {
          content: ""; position: absolute; right: 0; top: -4.5px; width: 6px; height: 6px;
          border: solid var(--hush); border-width: 1.5px 1.5px 0 0; transform: rotate(45deg);
        }
        .way b { color: var(--head-ink); font-weight: 600; }
        .way.direct b, .way.direct b + i { display: none; }

        .hero { padding: 44px 0 36px; }
        h1 { font-size: clamp(38px, 6.2vw, 68px); line-height: 1.02; letter-spacing: -.042em; font-weight: 780; }
        h1 em { font-style: normal; color: var(--head); }
        .hero p { margin-top: 18px; max-width: 66ch; text-wrap: pretty; font-size: 17.5px; color: var(--soft); }

        .board {
          background: var(--card); border: 1px solid var(--line); border-radius: 18px; box-shadow: var(--shadow);
          padding: 10px 28px 8px;
        }
        .top, .lane { display: grid; grid-template-columns: 40px minmax(0, 330px) minmax(0, 1fr); column-gap: 16px; }
        .top { grid-template-columns: auto minmax(0, 1fr) ; align-items: center; padding: 12px 0 10px; row-gap: 18px; }
        .all {
          border: 0; border-radius: 999px; padding: 9px 20px; font-weight: 650; background: var(--head-ink); color: #fff;
        }
        @media (prefers-color-scheme: dark) { .all { color: #1a0803; } }
        .all:hover { filter: brightness(1.07); }
        .all:disabled { opacity: .55; cursor: default; }
        .legend { list-style: none; padding: 0; display: flex; gap: 20px; justify-content: flex-end; font-size: 13px;
          color: var(--soft); }
        .legend li { display: flex; align-items: center; gap: 7px; }
        .axis {
          grid-column: 1 / -1; margin-left: 402px; display: flex; justify-content: space-between;
          font: 12px/1 var(--mono); color: var(--soft);
        }
        .axis span { width: 0; display: flex; justify-content: center; white-space: nowrap; }

        .lane { align-items: center; padding: 15px 0 11px; border-top: 1px solid var(--line); row-gap: 5px; }
        .run {
          width: 38px; height: 38px; border-radius: 50%; border: 1.5px solid var(--line); background: none; padding: 0;
          display: grid; place-items: center; transition: border-color .15s, background .15s; grid-row: span 2;
        }
        .run svg { width: 15px; height: 15px; fill: var(--head-ink); }
        .run:hover { border-color: var(--head); }
        .run:disabled { cursor: default; border-color: var(--head); animation: beat 1.2s infinite; }
        @keyframes beat { 50% { border-color: var(--line); } }
        .what { grid-row: span 2; }
        .what h2 { font-size: 16px; letter-spacing: -.01em; font-weight: 650; }
        .what code { font-size: 12.5px; font-weight: 400; color: var(--soft); margin-left: 5px; letter-spacing: 0; }
        .what p { font-size: 13.5px; line-height: 1.4; color: var(--soft); margin-top: 1px; }
        .said { grid-column: 3; font: 12px/1.5 var(--mono); color: var(--soft); min-height: 18px; }
        .said b { font-weight: 600; color: var(--ink); }

        .track {
          position: relative; height: 30px; grid-column: 3;
          background: linear-gradient(90deg, var(--grid) 1px, transparent 1px) 0 0 / calc(100% / 6) 100%;
          border-right: 1px solid var(--grid);
        }
        .track::before {
          content: ""; position: absolute; inset: 14.5px 0 auto; border-top: 1px solid var(--grid);
        }
        .silence, .open { position: absolute; left: 0; width: 0; border-radius: 2px; }
        .silence {
          top: 12px; height: 6px;
          background: repeating-linear-gradient(115deg, var(--hush) 0 2px, transparent 2px 6px);
        }
        .open { top: 9px; height: 12px; background: var(--open); }
        .mark { position: absolute; top: 50%; transform: translate(-50%, -50%); animation: land .28s cubic-bezier(.2, 1.6, .4, 1); }
        @keyframes land { from { transform: translate(-50%, -50%) scale(.2); opacity: 0; } }
        .mark.head, .key.head { width: 5px; height: 28px; border-radius: 3px; background: var(--head); }
        .mark.content, .key.content { width: 7px; height: 16px; border-radius: 2px; background: var(--content); }
        .mark.interim, .key.interim { width: 12px; height: 12px; border: 3px solid var(--interim); border-radius: 50%;
          background: var(--card); }
        .mark.end, .key.end { width: 10px; height: 10px; border-radius: 2px; background: var(--ink);
          box-shadow: 0 0 0 2px var(--card); }
        .key { display: inline-block; }
        .key.head { height: 16px; }
        .key.content { height: 13px; }

        .shell { padding: 52px 0 16px; }
        .shell > h2 { font-size: 26px; letter-spacing: -.025em; }
        .shell > p { color: var(--soft); margin: 4px 0 18px; }
        .command {
          display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 6px 16px; align-items: center; padding: 14px 0;
          border-top: 1px solid var(--line);
        }
        .command p { font-size: 14.5px; grid-column: 1 / -1; }
        .command pre {
          overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 11px 14px;
          font-size: 13px; line-height: 1.5;
        }
        .copy { border: 1.5px solid var(--line); background: none; border-radius: 10px; padding: 9px 16px; font-size: 14px; min-width: 88px; }
        .copy:hover { border-color: var(--head); }
        footer { padding-top: 12px; padding-bottom: 44px; font-size: 13px; color: var(--soft); }

        @media (max-width: 820px) {
          .wrap { padding: 0 18px; }
          .bar { padding-top: 16px; }
          .way { font-size: 12px; gap: 6px; }
          .way i { width: 16px; }
          .hero { padding: 30px 0 24px; }
          .hero p { font-size: 16px; margin-top: 14px; }
          .board { padding: 6px 16px 4px; margin: 0 -8px; border-radius: 16px; }
          .top { grid-template-columns: minmax(0, 1fr); padding-bottom: 8px; }
          .axis { margin-left: 0; }
          .legend { gap: 14px; font-size: 12px; grid-column: 1 / -1; justify-content: flex-start; }
          .top { row-gap: 12px; }
          .all { width: 100%; }
          .lane { grid-template-columns: 38px minmax(0, 1fr); column-gap: 14px; padding-top: 15px; }
          .run, .what { grid-row: auto; }
          .track, .said { grid-column: 1 / -1; }
          .track { margin-top: 6px; }
          .command { grid-template-columns: minmax(0, 1fr); }
          .command pre { white-space: pre-wrap; overflow-wrap: anywhere; }
          .copy { justify-self: start; }
        }
        @media (prefers-reduced-motion: reduce) { .mark, .run:disabled { animation: none; } }

        """
}
