"""The style and the script of a report. Both are in the page, which so needs no other file."""

COLOURS = ("#2563c9", "#c2570c", "#15803d", "#a21caf", "#b91c1c", "#0e7490", "#854d0e", "#6d28d9")
DARK_COLOURS = ("#7aa7f7", "#fb9a4b", "#5fcf86", "#e58bf0", "#f58a8a", "#4fc7e0", "#dcae4a", "#b79cf9")

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --faint: #5b6068; --back: #fff; --box: #f5f6f7;
  --rule: #dfe2e6 }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 0 auto; padding: 1em 16px 3em;
  color: var(--text); background: var(--back); overflow-wrap: anywhere }
h1 { font-size: 1.5em; margin: .4em 0 0 } h2 { font-size: 1.2em; margin: 2em 0 .6em;
  border-bottom: 1px solid var(--rule) }
h3 { font-size: 1em; margin: 1.2em 0 .3em } .note { color: var(--faint); margin: .1em 0; font-size: 13px }
.wide { overflow-x: auto } table { border-collapse: collapse }
td, th { padding: 3px 18px 3px 0; text-align: left; vertical-align: top } th { font-weight: 600;
  white-space: nowrap }
.several td { min-width: 9em }
code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { background: var(--box); padding: 10px; margin: .3em 0 1em; white-space: pre-wrap; border-radius: 4px }
summary { cursor: pointer; padding: 2px 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 1.6em 2em }
.charts > figure:first-child { grid-column: 1 / -1 }
figure { margin: 0; min-width: 0 } figcaption { font-weight: 600 }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1.2em; margin: .2em 0; padding: 0;
  font-size: 13px }
.legend i { display: inline-block; width: 20px; border-top: 3px solid var(--c); margin-right: 6px;
  vertical-align: middle }
.legend i.dashed { border-top-style: dashed }
.chart > input { position: absolute; opacity: 0 }
.chart > label { display: inline-block; font-size: 13px; padding: 2px 9px; margin: 2px 4px 2px 0;
  cursor: pointer;
  border: 1px solid var(--rule); border-radius: 12px; color: var(--faint) }
.chart > input:checked + label { color: var(--text); background: var(--box); border-color: var(--faint) }
.chart > input:focus-visible + label { outline: 2px solid var(--faint) }
.chart > input ~ .view { display: none }
.plot { position: relative; height: 230px; margin: 12px 22px 24px 62px }
.charts > figure:first-child .plot { height: 320px }
.plot svg { width: 100%; height: 100%; display: block; overflow: visible }
.plot svg * { vector-effect: non-scaling-stroke; fill: none; stroke: var(--c); stroke-linejoin: round }
.plot svg .grid { stroke: var(--rule) } .plot svg .line { stroke-width: 2 } .plot svg .raw { opacity: .35 }
.plot svg .eval { stroke-width: 1.5; stroke-dasharray: 5 4 } .plot svg .dot { stroke-width: 6;
  stroke-linecap: round }
.plot span { position: absolute; font-size: 12px; line-height: 1; color: var(--faint); white-space: nowrap }
.plot .y { right: calc(100% + 8px); transform: translateY(-50%) } .plot .x { top: calc(100% + 8px);
  transform: translateX(-50%) }
.unit { text-align: right; font-size: 12px; line-height: 1; color: var(--faint); margin: -2px 22px 0 0 }
.plot .rule { position: absolute; top: 0; bottom: 0; border-left: 1px solid var(--faint); pointer-events: none }
.plot .values { position: absolute; top: 4px; z-index: 1; padding: 4px 8px; font-size: 12px;
  line-height: 1.4; white-space: pre-line;
  background: var(--box); border: 1px solid var(--rule); border-radius: 4px; pointer-events: none;
  max-width: 70% }
.values b { color: var(--c); font-weight: 600 }
@media print { details > * { display: block } }
"""

SWITCH = ".chart > input:nth-of-type({0}):checked ~ .view:nth-of-type({0}) {{ display: block }}\n"
DARK = "--text: #e6e8eb; --faint: #a0a6ae; --back: #16181b; --box: #22252a; --rule: #383c42"

SCRIPT = """
for (const chart of document.querySelectorAll(".chart")) {
  const series = JSON.parse(chart.querySelector("script").textContent);
  for (const plot of chart.querySelectorAll(".plot")) {
    const {unit, low, high} = plot.dataset;
    const rule = document.createElement("div"), box = document.createElement("div");
    rule.className = "rule"; box.className = "values"; rule.hidden = box.hidden = true; plot.append(rule, box);
    const show = (event) => {
      const edge = plot.getBoundingClientRect();
      const part = Math.min(1, Math.max(0, (event.clientX - edge.left) / edge.width));
      const x = +low + part * (high - low);
      rule.style.left = 100 * part + "%";
      box.style.left = part < 0.5 ? `calc(${100 * part}% + 10px)` : "auto";
      box.style.right = part < 0.5 ? "auto" : `calc(${100 - 100 * part}% + 10px)`;
      box.replaceChildren(`${Math.round(x).toLocaleString("en")} ${unit}`);
      for (const each of series) {
        const xs = each[unit];
        let first = 0, last = xs.length - 1;
        while (last - first > 1) {
          const middle = (first + last) >> 1;
          if (xs[middle] < x) first = middle; else last = middle;
        }
        const near = Math.abs(xs[first] - x) <= Math.abs(xs[last] - x) ? first : last;
        const value = document.createElement("b");
        value.className = "s" + each.colour; value.textContent = each.values[near];
        box.append(`\\n${each.name ? each.name + " " : ""}`, value, ` at ${xs[near].toLocaleString("en")}`);
      }
      rule.hidden = box.hidden = false;
    };
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointerleave", () => { rule.hidden = box.hidden = true; });
  }
}
"""


def style(colours: int) -> str:
    """Return the style of a page.

    Args:
        colours: Number of its series.
    """
    light, dark = ("\n".join(_rule(each, names) for each in range(colours)) for names in (COLOURS, DARK_COLOURS))
    switches = "".join(SWITCH.format(number) for number in range(1, 5))
    return f"{STYLE}{switches}{light}\n@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }}\n{dark} }}\n"


def _rule(number: int, colours: tuple[str, ...]) -> str:
    if number < len(colours):
        return f".s{number} {{ --c: {colours[number]} }}"
    lightness = 38 if colours is COLOURS else 68
    hue = (number * 137.5) % 360  # the golden angle: neighbours differ
    return f".s{number} {{ --c: hsl({hue:.0f} 60% {lightness}%) }}"
