// What a screen reader would say of a page, by the browser's own reckoning.

const NEED_NAMES = new Set(["button", "link", "textbox", "searchbox", "spinbutton", "combobox", "checkbox", "image", "img", "dialog", "region"]);

/** Roles of what has none. */
export const namesOf = async (page) => {
  const session = await page.context().newCDPSession(page);
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  const nameless = nodes.filter((node) => !node.ignored && NEED_NAMES.has(node.role?.value) && !node.name?.value?.trim());
  return nameless.map((node) => node.role.value);
};
