// Elements from data. A view is a function that builds elements anew from what is known; `show` changes only what differs in the
// page, so that focus, selection, scroll and what the user opened or typed stay. Listeners are on the views, by `data-act`.

const SVG = "http://www.w3.org/2000/svg";
/** What the user changes and no picture of the gateway knows. */
const USERS = new Set(["open", "value", "checked"]);

const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
};

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Makes the children of `parent` look like `wanted`. */
export const show = (parent, ...wanted) => {
  const next = wanted.flat(Infinity).filter((node) => node !== null && node !== undefined && node !== false);
  children(parent, next.map((node) => (node instanceof Node ? node : document.createTextNode(String(node)))));
};

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null);
const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

const children = (parent, wanted) => {
  const keyed = new Map();
  for (const child of parent.childNodes) if (keyOf(child) !== null) keyed.set(keyOf(child), child);
  let at = parent.firstChild;
  for (const want of wanted) {
    const known = keyOf(want) === null ? null : keyed.get(keyOf(want));
    if (known && known !== at && alike(known, want)) parent.insertBefore(known, at);
    const here = known && alike(known, want) ? known : at;
    if (here && alike(here, want)) {
      become(here, want);
      at = here.nextSibling;
    } else {
      parent.insertBefore(want, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
};

const become = (here, want) => {
  if (here.nodeType !== Node.ELEMENT_NODE) {
    if (here.data !== want.data) here.data = want.data;
    return;
  }
  for (const { name } of [...here.attributes]) {
    if (!want.hasAttribute(name) && !USERS.has(name)) here.removeAttribute(name);
  }
  for (const { name, value } of want.attributes) {
    if (here.getAttribute(name) !== value && !USERS.has(name)) here.setAttribute(name, value);
  }
  children(here, [...want.childNodes]);
};

/** Calls `acts[name](element, event)` for whatever carries `data-act="name"` below `root`. */
export const onAct = (root, acts, event = "click") => {
  root.addEventListener(event, (happened) => {
    const element = happened.target.closest?.("[data-act]");
    if (element && root.contains(element)) acts[element.dataset.act]?.(element, happened);
  });
};

/** Asks before what cannot be taken back. Resolves to whether it is wanted. */
export const confirmed = (question, yes) => new Promise((resolve) => {
  const dialog = h("dialog", { class: "ask", "aria-label": question },
    h("form", { method: "dialog" },
      h("p", {}, question),
      h("div", { class: "row end" },
        h("button", { value: "no", class: "quiet" }, "Cancel"),
        h("button", { value: "yes", class: "danger" }, yes))));
  document.body.append(dialog);
  dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(dialog.returnValue === "yes");
  });
  dialog.showModal();
});
