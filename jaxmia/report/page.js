"use strict";
const sections = [...document.querySelectorAll("details[data-depth]")];
const depths = ["summary", "results", "evidence"];
document.querySelector(".depths").hidden = false;
for (const button of document.querySelectorAll(".depths button")) {
  button.addEventListener("click", () => {
    const deepest = depths.indexOf(button.dataset.depth);
    for (const each of sections) each.open = depths.indexOf(each.dataset.depth) <= deepest;
  });
}
const reveal = () => {
  const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
  const within = target && (target.closest("details") || target.querySelector("details"));
  if (within && !within.open) {
    within.open = true;
    target.scrollIntoView();
  }
};
addEventListener("hashchange", reveal);
reveal();
let closed = [];
addEventListener("beforeprint", () => {
  closed = sections.filter((each) => !each.open);
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});
for (const table of document.querySelectorAll("table.sortable")) {
  const title = document.getElementById(table.getAttribute("aria-labelledby")).textContent;
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (heading.tagName !== "TH") return;
    const name = heading.textContent;
    const button = document.createElement("button"); // beside the text: a browser may print no button in repeated headers
    button.type = "button";
    button.setAttribute("aria-label", `sort by ${name}`);
    heading.classList.add("by");
    heading.append(button);
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "descending" ? 1 : -1;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.key;
      const order = (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === ""); // what has no number stays last
        const numbers = [Number(a), Number(b)];
        if (numbers.some(Number.isNaN)) return sign * a.localeCompare(b, "en", { numeric: true });
        return sign * (numbers[0] - numbers[1]);
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(order));
      for (const cell of table.querySelectorAll(".again")) cell.classList.remove("again"); // no longer below its like
      document.getElementById("announce").textContent =
        `${title}: sorted by ${name}, ${heading.getAttribute("aria-sort")}`;
    });
  });
}
