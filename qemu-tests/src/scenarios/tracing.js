"use strict";
// A person's visit to the page, step by step. It runs in the page, whose names it knows.
const told = [];
const tell = (what, value) => told.push(`${what}: ${value}`);
const whole = [from, to];
const drawnAtFirst = +document.body.dataset.drawn;
tell("events", data.count);
tell("drawn at first", drawnAtFirst);

// The wheel, in the middle of the picture.
const box = canvas.getBoundingClientRect();
const wheel = (deltaY) => canvas.dispatchEvent(new WheelEvent("wheel", {
  deltaY, clientX: box.left + box.width / 2, clientY: box.top + 40, cancelable: true,
}));
for (let turn = 0; turn < 10; turn++) wheel(-100);
tell("zoomed", to - from < (whole[1] - whole[0]) / 5 && from > whole[0] && to < whole[1]);
element("whole").click();
tell("whole again", from === whole[0] && to === whole[1]);

// A name is typed, and Enter goes to the first such call.
const type = (text) => {
  element("search").value = text;
  element("search").dispatchEvent(new Event("input"));
};
const enter = () => element("search").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
type("mmuext_op");
enter();
const found = element("detail").textContent;
tell("found", found.includes("mmuext_op"));
tell("detail", found.replaceAll("\n", " "));
list();
const line = [...element("list").children].find((line) => line.textContent.includes("mmuext_op("));
line?.click();
const read = element("detail").textContent;
tell("read", read.replaceAll("\n", " "));
tell("arguments", /mmuext_op\([^)]+\)/.test(read));

// A request of the guest's disk: how long it waits, and how long the disk takes.
type("request 3:");
enter();
tell("request", element("detail").textContent.replaceAll("\n", " "));
tell("requests", /µs at the disk, .* µs to the answer/.test(element("detail").textContent));
type("");

// A kind of events is hidden, and comes back.
element("whole").click();
const boxes = [...element("kinds").querySelectorAll("input")];
const before = +document.body.dataset.drawn;
boxes[0].click();
const without = +document.body.dataset.drawn;
boxes[0].click();
tell("hidden", boxes.length > 1 && without < before && +document.body.dataset.drawn === before);

// As many events as a long run has: the same ones over and over, and the view moves through them.
let events = data.count;
for (const lane of lanes) {
  const once = lane.items;
  lane.items = [];
  for (let copy = 0; copy * data.count < 100000; copy++) {
    for (const item of once) lane.items.push([item[0] + copy * end, item[1] + copy * end, ...item.slice(2)]);
  }
  events = Math.max(events, data.count * Math.ceil(100000 / data.count));
}
const begun = performance.now();
for (let turn = 0; turn < 100; turn++) wheel(turn % 2 ? 100 : -100);
tell(`with ${events} events a picture takes`, `${((performance.now() - begun) / 100).toFixed(1)} ms`);
tell("errors", window.wrong.length ? window.wrong.join("; ") : "none");

const result = document.createElement("pre");
result.id = "visit";
result.textContent = told.join("\n");
document.body.append(result);
