"""How the page of a study looks, in light and dark, and the few lines that make it answer."""

STYLE = """
:root { color-scheme: light dark; --ink: #171b21; --muted: #5b6571; --line: #dde2e8;
  --card: #ffffff; --back: #f4f6f8; --soft: #eef1f5; --accent: #1d5fc4; --accent-rgb: 29 95 196;
  --baseline: #b8540b; --family: #7a3fc0; --other: #6d7884; --over: #c22f2f; --on: #ffffff;
  --copied: #1d5fc4; --sliced: #6a9be6; --grown: #2a8a56; --fresh: #c9862a; --l: 42%; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf0; --muted: #9ea9b5; --line: #333c46;
  --card: #1a2027; --back: #11151a; --soft: #232b34; --accent: #78adff; --accent-rgb: 120 173 255;
  --baseline: #f0a05a; --family: #bd95f5; --other: #93a0ad; --over: #ff7f78; --on: #10151b;
  --copied: #78adff; --sliced: #3f6db5; --grown: #5cc48d; --fresh: #e3b062; --l: 68%; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 72px; }
header { margin-bottom: 28px; }
.eyebrow { color: var(--muted); font-size: 14px; margin: 0 0 8px; overflow-wrap: anywhere; }
h1 { font-size: 30px; line-height: 1.22; margin: 0 0 14px; letter-spacing: -0.01em;
  max-width: 30em; overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 21px; margin: 48px 0 14px; letter-spacing: -0.005em; }
h3 { font-size: 15px; margin: 0 0 12px; }
h4 { font-size: 15px; margin: 0 0 8px; text-transform: capitalize; }
h4 small { text-transform: none; font-weight: normal; display: block; }
p { margin: 0 0 12px; }
.answer { font-size: 19px; line-height: 1.45; max-width: 44em; overflow-wrap: anywhere; }
.sure { max-width: 52em; color: var(--muted); overflow-wrap: anywhere; }
small, .small { color: var(--muted); font-size: 13.5px; line-height: 1.45; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(5, minmax(0, 1fr));
  margin: 22px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 16px; font-size: 13.5px; color: var(--muted); }
.tile b { display: block; font-size: 23px; line-height: 1.25; color: var(--ink);
  font-variant-numeric: tabular-nums; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 24px 0 0; font-size: 14.5px; }
a { color: var(--accent); text-underline-offset: 3px; }
.cards { display: grid; gap: 18px; grid-template-columns: repeat(2, minmax(0, 1fr));
  align-items: start; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 20px; min-width: 0; }
svg + p, .bars + p, .legend + p { margin-top: 14px; }
.card > :last-child, .hover > :last-child { margin-bottom: 0; }
.card + .card { margin: 0; }
.column { display: grid; gap: 18px; min-width: 0; }
.span { grid-column: 1 / -1; }
section > .card + .card, section > .cards + .card, section > .card + .cards { margin-top: 18px; }
ul.told { font-size: 15px; margin: 0; padding: 0 0 0 20px; }
ul.told li { margin: 4px 0; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg text { fill: var(--ink); font-size: 12px; }
svg .tick { fill: var(--muted); font-size: 11.5px; font-variant-numeric: tabular-nums; }
svg .label { fill: var(--muted); font-size: 12px; }
svg .strong { fill: var(--ink); font-weight: 600; }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg .mark { fill: var(--ink); font-weight: 600; }
svg .tick.over { fill: var(--over); }
.grid { stroke: var(--line); stroke-width: 1; }
.limit { stroke: var(--over); stroke-width: 1.5; stroke-dasharray: 5 4; }
.front { stroke: var(--muted); stroke-width: 1.2; stroke-dasharray: 1 0; }
.whisker { stroke: var(--ink); stroke-width: 1.3; }
.winner { --c: var(--accent); } .baseline { --c: var(--baseline); }
.family { --c: var(--family); } .other { --c: var(--other); } .over { --c: var(--over); }
.errors { --c: var(--accent); }
.dot { fill: var(--c); stroke: var(--card); stroke-width: 1.5; }
.dot.hollow { fill: var(--card); stroke: var(--c); stroke-width: 2; }
.seed { fill: none; stroke: var(--ink); stroke-width: 1; }
.band { stroke: var(--c); stroke-width: 7; stroke-linecap: round; opacity: 0.42; }
.curve { stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.curve.other { stroke-width: 1.3; opacity: 0.8; }
.curve.hue { stroke: hsl(var(--h) 62% var(--l)); stroke-width: 1.4; }
.curve.all { stroke: var(--ink); stroke-width: 2.6; }
.point { cursor: pointer; outline: none; } .touch { fill: transparent; }
.hover > .small { margin-top: 10px; }
.point:hover .touch, .point:focus-visible .touch, .point.on .touch { fill: var(--c, var(--other));
  fill-opacity: 0.16; stroke: var(--muted); }
.readout { background: var(--soft); border-radius: 8px; padding: 9px 13px; font-size: 14px;
  margin: 12px 0 0; min-height: 4.2em; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0 0; font-size: 13.5px;
  color: var(--muted); }
.legend span { display: inline-flex; align-items: center; gap: 7px; overflow-wrap: anywhere; }
.chip { width: 11px; height: 11px; border-radius: 50%; background: var(--c); flex: none; }
.chip.hollow { background: none; border: 2px solid var(--other); }
.chip.line { height: 3px; width: 16px; border-radius: 2px; background: hsl(var(--h) 62% var(--l)); }
.chip.line.ink { background: var(--ink); }
.chip.found, .chip.there { border-radius: 2px; background: none; border: 2.5px solid #ff8c14; }
.chip.there { border-color: #fff; outline: 1px solid var(--muted); background: #4a5560; }
.chip.square { border-radius: 3px; }
.network { max-width: 520px; margin: 0 auto; }
.part { fill: var(--soft); stroke: var(--line); }
.part.stage { stroke: var(--accent); } .part.neck { stroke: var(--grown); }
.part.head { stroke: var(--fresh); }
.width { fill: var(--muted); } .width.stage { fill: var(--accent); }
.width.neck { fill: var(--grown); }
svg .boxed { font-size: 11.5px; fill: var(--muted); }
svg .boxed.strong { fill: var(--ink); }
.arrow line { stroke: var(--muted); stroke-width: 1.2; } .arrow polygon { fill: var(--muted); }
.cell { fill: rgb(var(--accent-rgb) / var(--v)); }
svg .cellcount { fill: var(--ink); } svg .cellcount.on { fill: var(--on); }
.bars { display: grid; gap: 8px; }
.bar { display: grid; grid-template-columns: minmax(86px, 170px) 1fr minmax(88px, auto); gap: 12px;
  align-items: center; font-size: 14px; }
.bar .name { overflow-wrap: anywhere; line-height: 1.3; }
.bar .value { color: var(--muted); font-variant-numeric: tabular-nums; font-size: 13.5px; }
.track { background: var(--soft); border-radius: 4px; height: 11px; overflow: hidden; }
.track i { display: block; height: 100%; border-radius: 4px; background: var(--c, var(--accent)); }
.stack { display: flex; height: 16px; border-radius: 5px; overflow: hidden; gap: 2px; }
.stack i { display: block; background: var(--c); }
dl { display: grid; grid-template-columns: minmax(90px, 27%) 1fr; gap: 7px 16px; margin: 0;
  font-size: 14.5px; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: 13px; }
pre { background: var(--soft); border-radius: 8px; padding: 11px 14px; margin: 0 0 16px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 12px;
  background: var(--card); }
.card .wide { border: 0; border-radius: 0; margin: 0 -4px; }
table { border-collapse: collapse; font-size: 13.5px; width: 100%; }
th, td { padding: 8px 10px; text-align: right; white-space: nowrap; vertical-align: top;
  font-variant-numeric: tabular-nums; }
th { color: var(--muted); font-weight: 600; }
td { border-top: 1px solid var(--line); }
tr.winner td { background: rgb(var(--accent-rgb) / 0.1); font-weight: 600; }
th.note, td.note { text-align: left; white-space: normal; min-width: 210px; }
.advice { display: grid; gap: 0; }
.advice div { display: grid; grid-template-columns: 150px 110px 1fr; gap: 4px 16px;
  padding: 10px 0; border-top: 1px solid var(--line); font-size: 14.5px; }
.advice div:first-child { border-top: 0; padding-top: 0; }
.advice b { overflow-wrap: anywhere; } .advice small { display: block; }
.advice span { overflow-wrap: anywhere; }
.verdict { display: inline-block; border-radius: 999px; padding: 1px 10px; font-size: 12.5px;
  font-weight: 600; border: 1px solid currentColor; margin-right: 8px; white-space: nowrap; }
.verdict.held { color: var(--grown); } .verdict.not { color: var(--over); }
.verdict.open { color: var(--muted); }
.kinds { display: grid; gap: 22px 28px; margin-top: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
.crops { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 10px; }
figure { margin: 0; min-width: 0; } figcaption { font-size: 12.5px; line-height: 1.35;
  margin-top: 5px; overflow-wrap: anywhere; }
figcaption small { display: block; font-size: 12px; }
img { max-width: 100%; height: auto; display: block; border-radius: 6px; }
.crops img { width: 100%; }
.sheet { overflow-x: auto; } .sheet img { min-width: 640px; }
details summary { cursor: pointer; color: var(--accent); font-size: 14.5px; }
details { margin-top: 16px; } details pre { margin: 10px 0 0; }
@media (max-width: 820px) { .cards { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 560px) { main { padding: 22px 14px 56px; } h1 { font-size: 23px; }
  .answer { font-size: 17px; } .card { padding: 15px 14px; } h2 { margin-top: 38px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .tile b { font-size: 20px; } .tile { padding: 10px 13px; }
  dl { grid-template-columns: 1fr; gap: 0; } dt { font-size: 13px; } dd { margin: 0 0 9px; }
  .advice div { grid-template-columns: 1fr auto; } .advice span { grid-column: 1 / -1; }
  .bar { grid-template-columns: 104px 1fr auto; gap: 9px; } .readout { min-height: 6.8em; } }
@media print { nav, .readout { display: none; } .card { break-inside: avoid; } }
"""

SCRIPT = """
for (const chart of document.querySelectorAll('.hover')) {
  const readout = chart.querySelector('.readout');
  for (const point of chart.querySelectorAll('.point')) {
    const show = () => {
      chart.querySelectorAll('.point.on').forEach((one) => one.classList.remove('on'));
      point.classList.add('on');
      readout.textContent = point.dataset.told;
    };
    for (const when of ['pointerenter', 'focus', 'click']) point.addEventListener(when, show);
  }
}
"""
