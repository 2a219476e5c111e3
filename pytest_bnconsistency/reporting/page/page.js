"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const rows = all("#models tbody tr");
  const models = rows.map((row) => ({
    row,
    section: find(row.dataset.model),
    checks: all("details.check", find(row.dataset.model)).map((details) => ({
      details,
      verdict: details.dataset.verdict,
      rules: JSON.parse(details.dataset.rules),
    })),
  }));
  const search = find("search"), verdict = find("verdict"), rule = find("rule");

  const textOf = (model, check) => {
    check.text ??= [
      model.section.querySelector("h2").textContent,
      check.details.querySelector("summary").textContent,
      check.details.querySelector(".searched").textContent,
    ].join(" ").toLowerCase();
    return check.text;
  };

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0, total = 0;
    for (const model of models) {
      let any = false;
      for (const check of model.checks) {
        const fits = (!verdict.value || check.verdict === verdict.value)
          && (!rule.value || check.rules.includes(rule.value))
          && (!words.length || words.every((word) => textOf(model, check).includes(word)));
        check.details.hidden = !fits;
        any ||= fits;
        seen += fits;
        total += 1;
      }
      model.row.hidden = model.section.hidden = !any;
    }
    find("nothing").hidden = seen > 0 || total === 0;
    find("shown").value = `${seen} of ${total} checks shown`;
  };

  const sort = (header, key) => {
    const down = header.getAttribute("aria-sort") === (key === "order" ? "ascending" : null)
      || (key !== "order" && header.getAttribute("aria-sort") !== "descending");
    all("#models th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (model) => Number(model.row.dataset[key]);
    models.sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b))
      || a.row.dataset.order - b.row.dataset.order);
    for (const model of models) {
      model.row.parentNode.append(model.row);
      find("sections").append(model.section);
    }
  };

  const open = (target) => {
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  const follow = () => {
    const target = location.hash && find(location.hash.slice(1));
    if (!target) return;
    open(target);
    target.scrollIntoView();
    (target.tagName === "DETAILS" ? target.querySelector("summary") : target).focus({ preventScroll: true });
  };

  all("#models th[data-sort]").forEach((header) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header, header.dataset.sort));
    header.append(button);
  });
  search.addEventListener("input", filter);
  verdict.addEventListener("change", filter);
  rule.addEventListener("change", filter);
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  const folds = () => all("#sections details");
  find("unfold").addEventListener("click", () => folds().forEach((one) => { one.open = true; }));
  find("fold").addEventListener("click", () => folds().forEach((one) => { one.open = false; }));
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && event.target === search) {
      search.value = "";
      filter();
    }
  });
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = folds().filter((one) => !one.open && !one.classList.contains("numbers"));
    folded.forEach((one) => { one.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
  addEventListener("hashchange", follow);
  find("controls").hidden = false;
  filter();
  follow();
})();
