// What a careful reader without a mouse, or with poor sight, would stumble over on the page as it is: a list of sentences, empty if nothing.
(() => {
  const found = [];
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const paint = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = "#000"; paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, ground) => [0, 1, 2].map((i) => top[i] * top[3] + ground[i] * (1 - top[3]));
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const layer = rgba(getComputedStyle(at).backgroundColor);
      if (layer[3] > 0) layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const name = (e) => e.getAttribute("aria-label") || (e.labels?.length ? e.labels[0].textContent : "") || e.textContent.trim() || e.getAttribute("title") || "";
  const said = (e) => `<${e.tagName.toLowerCase()} class="${e.getAttribute("class") ?? ""}"> "${e.textContent.trim().slice(0, 40)}"`;
  const shown = (e) => { const box = e.getBoundingClientRect(); return box.width > 1 && box.height > 1 && e.checkVisibility({ visibilityProperty: true, opacityProperty: true }); };

  for (const element of document.body.querySelectorAll("*")) {
    if (!shown(element) || element.closest("canvas, script, style, .visually-hidden, :disabled, option")) continue;
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(element), svg = element instanceof SVGElement;
    const back = ground(element), front = over(rgba(svg ? style.fill : style.color), back);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`contrast ${ratio.toFixed(2)}: ${said(element)}`);
  }
  for (const e of document.querySelectorAll("button, a[href], select, input, textarea, summary")) if (shown(e) && !name(e)) found.push(`without a name: ${said(e)}`);
  for (const e of document.querySelectorAll("[role=img], img")) if (!e.getAttribute("aria-label") && !e.getAttribute("alt")) found.push(`a picture without words: ${said(e)}`);
  for (const e of document.querySelectorAll("table")) if (!e.querySelector("th")) found.push(`a table without headings: ${said(e)}`);
  for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) found.push(`a tab order of its own: ${said(e)}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) found.push(`the id ${id} is there twice`);
  if (!document.documentElement.lang) found.push("the page does not say its language");
  if (document.querySelectorAll("h1").length !== 1) found.push("the page has not one h1");
  if (document.querySelectorAll("main").length !== 1) found.push("the page has not one main");
  if (document.documentElement.scrollWidth > innerWidth + 1) found.push(`wider than the window: ${document.documentElement.scrollWidth} of ${innerWidth}`);
  return [...new Set(found)].slice(0, 30);
})()
