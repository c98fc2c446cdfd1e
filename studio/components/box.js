// The crop box: {x, y, w, h} in the picture's pixels. Comes before byhand.js in one text, which uses these names.

const LEAST = 8;  // px, as the trainer has it
const RATIOS = { free: 0, "1:1": 1, "2:3": 2 / 3, "3:2": 3 / 2 };

const clamp = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

function shaped(want, locked, shapes) {
  if (locked !== "bucket") return RATIOS[locked];
  const distance = ratio => Math.abs(Math.log(want / ratio));
  return shapes.map(([wide, high]) => wide / high).reduce((best, ratio) => distance(ratio) < distance(best) ? ratio : best);
}

// A corner or side is pulled to a point; what lies opposite stays where it is.
function pulled(box, grip, point, ratio, wide, high) {
  const west = grip.includes("w"), east = grip.includes("e"), north = grip.includes("n"), south = grip.includes("s");
  const across = west || east, down = north || south;
  const anchorX = west ? box.x + box.w : box.x, anchorY = north ? box.y + box.h : box.y;
  const middleX = box.x + box.w / 2, middleY = box.y + box.h / 2;
  const roomX = across ? (west ? anchorX : wide - anchorX) : 2 * Math.min(middleX, wide - middleX);
  const roomY = down ? (north ? anchorY : high - anchorY) : 2 * Math.min(middleY, high - middleY);
  let w = across ? Math.max(LEAST, west ? anchorX - point.x : point.x - anchorX) : box.w;
  let h = down ? Math.max(LEAST, north ? anchorY - point.y : point.y - anchorY) : box.h;
  if (ratio) {
    w = across && down ? Math.max(w, h * ratio) : across ? w : h * ratio;
    w = Math.min(Math.max(w, LEAST, LEAST * ratio), roomX, roomY * ratio);
    h = w / ratio;
  } else {
    if (across) w = Math.min(w, roomX);
    if (down) h = Math.min(h, roomY);
  }
  const x = across ? (west ? anchorX - w : anchorX) : (ratio ? middleX - w / 2 : box.x);
  const y = down ? (north ? anchorY - h : anchorY) : (ratio ? middleY - h / 2 : box.y);
  return { x, y, w, h };
}

// The largest box of this ratio around the same middle, no larger than the box.
function fitted(box, ratio) {
  if (!ratio) return box;
  const w = Math.min(box.w, box.h * ratio), h = w / ratio;
  return { x: box.x + (box.w - w) / 2, y: box.y + (box.h - h) / 2, w, h };
}
