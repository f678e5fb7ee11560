"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (heading.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
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
      document.getElementById("announce").textContent =
        `${table.caption.textContent}: sorted by ${button.textContent}, ${heading.getAttribute("aria-sort")}`;
    });
  });
}
