"use strict";
// Turns the dials: which answers, which cursor, which width are shown. All values stand in the page itself.
const page = JSON.parse(document.getElementById("values").textContent);
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const slider = one("#lam"), readout = one("#readout"), tip = one("#tip");
const short = (number) => String(Number(number.toPrecision(3)));

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function width() {
  const chosen = one("input[name=width]:checked");
  return chosen ? Number(chosen.value) : page.widths[0];
}

function stop() {
  return slider ? Number(slider.value) : 0;
}

function write(node, [label, confidence], truth) {
  const isRight = label === truth;
  node.className = "answer " + (isRight ? "right" : "wrong");
  node.title = page.classes[label];
  const share = element("small", "", `${Math.round(100 * confidence)}%`);
  node.replaceChildren(element("b", "", `${isRight ? "✓" : "✗"} ${page.classes[label]}`), " ", share);
}

function show() {
  const index = stop(), lam = page.lams[index], isTrained = page.trained.includes(lam);
  const state = page.states[width()]?.[index];
  const measured = page.measured[width()]?.[index];
  if (readout) {
    one("#lam-value").textContent = short(lam);
    readout.textContent = measured ?? (isTrained ? "trained" : "between trained lams, not measured");
  }
  if (slider) slider.setAttribute("aria-valuetext", `lam ${short(lam)}${isTrained ? ", trained" : ""}`);
  all(".card").forEach((card, image) => {
    one(".attacked img", card).src = state.images[image];
    write(one(".clean .answer", card), state.clean[image], page.labels[image]);
    write(one(".attacked .answer", card), state.attacked[image], page.labels[image]);
  });
  if (state) {
    const right = (answers) => answers.filter(([label], image) => label === page.labels[image]).length;
    one("#tally").textContent = `At lam ${short(lam)}, ${right(state.clean)} of these ${page.labels.length} are answered `
      + `right as they are, ${right(state.attacked)} under attack.`;
  }
  const share = page.lams.length > 1 ? index / (page.lams.length - 1) : 0;
  for (const line of all(".cursor")) {
    const left = Number(line.dataset.left), place = left + share * (Number(line.dataset.right) - left);
    line.setAttribute("x1", place);
    line.setAttribute("x2", place);
  }
  for (const mark of all(".mark[data-lam]")) mark.classList.toggle("here", Number(mark.dataset.lam) === lam);
  for (const cell of all("[data-column]")) cell.classList.toggle("here", Number(cell.dataset.column) === lam);
  for (const part of all("[data-of-width]")) part.classList.toggle("other", Number(part.dataset.ofWidth) !== width());
}

function turn(mark) {
  const index = page.lams.indexOf(Number(mark.dataset.lam));
  if (index < 0 || !slider) return;
  slider.value = index;
  const radio = all("input[name=width]").find((it) => Number(it.value) === Number(mark.dataset.width));
  if (radio) radio.checked = true;
  show();
}

function showTip(mark) {
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const place = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(place.right + 4, document.documentElement.clientWidth - own.width - 8);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, place.top - own.height - 6)}px`;
}

function row(title, figures) {
  const made = element("div", "state");
  made.append(element("h4", "", title));
  for (const [source, text] of figures) {
    const figure = element("figure", ""), picture = element("img", "");
    picture.src = source;
    picture.alt = "";
    figure.append(picture, text);
    made.append(figure);
  }
  return made;
}

function layOut() {
  // for paper, which has no slider: the trained lams below each other
  const states = one("#states");
  if (!states) return;
  const truth = (image) => element("span", "", `true: ${page.classes[page.labels[image]]}`);
  states.append(row("as they are", all(".card .clean img").map((picture, image) => [picture.src, truth(image)])));
  for (const own of page.widths) {
    for (const lam of page.trained) {
      const state = page.states[own][page.lams.indexOf(lam)];
      const figures = state.images.map((source, image) => {
        const answer = element("span", "");
        write(answer, state.attacked[image], page.labels[image]);
        return [source, answer];
      });
      states.append(row(`attacked at lam ${short(lam)}${page.widths.length > 1 ? `, width ${short(own)}` : ""}`, figures));
    }
  }
}

for (const mark of all(".mark")) {
  for (const event of ["pointerenter", "focus"]) mark.addEventListener(event, () => showTip(mark));
  for (const event of ["pointerleave", "blur"]) mark.addEventListener(event, () => { tip.hidden = true; });
  mark.addEventListener("click", () => turn(mark));
  mark.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      turn(mark);
    }
  });
}
for (const input of all("#dials input")) input.addEventListener("input", show);
for (const button of all("button.copy")) {
  button.addEventListener("click", () => navigator.clipboard?.writeText(button.previousElementSibling.textContent)
    .then(() => { button.textContent = "copied"; }, () => { button.textContent = "select and copy"; }));
}
layOut();
show();
