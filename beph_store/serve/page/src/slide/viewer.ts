/** OpenSeadragon, spoken to in level-0 px; and the canvas that lies over it, drawn in the same frame. */

import OpenSeadragon from "openseadragon";

import { h } from "../dom.ts";
import type { SlideInfo } from "../types.ts";

/** Where the slide is on the screen: CSS px = left + x · scale. */
export interface Sight {
  readonly left: number;
  readonly top: number;
  /** CSS px per level-0 px. */
  readonly scale: number;
  /** Of the view, CSS px. */
  readonly width: number;
  readonly height: number;
}

/** More than this in one event is a wheel that spins freely. */
const MOST_WHEEL_PX = 400;

export type Box = readonly [x0: number, y0: number, x1: number, y1: number];

export interface ViewerEvents {
  /** A click that was not a drag, level-0 px. */
  readonly click: (x: number, y: number, event: PointerEvent) => void;
  /** A box was drawn, level-0 px. */
  readonly region: (box: Box) => void;
  /** The pointer is there; null: it left. */
  readonly pointer: (x: number | null, y: number | null) => void;
  /** The view came to rest. */
  readonly rest: () => void;
  readonly state: (state: "opening" | "open" | "loaded" | "failed", message?: string) => void;
}

/** Paints over the slide; CSS px, whatever the screen's own resolution. */
export type Painter = (context: CanvasRenderingContext2D, sight: Sight) => void;

export class SlideViewer {
  private readonly viewer: OpenSeadragon.Viewer;
  private readonly canvas = h("canvas", { class: "overlay-canvas", "aria-hidden": "true" });
  private readonly band = h("div", { class: "region-band", hidden: true });
  private readonly width: number;
  private readonly height: number;
  private readonly painter: Painter;
  private readonly events: ViewerEvents;
  private readonly ending = new AbortController();
  private start: OpenSeadragon.Point | null = null;
  private drawing = false;
  private asked = 0;

  /** When set, a drag draws a box without Shift. */
  regionMode = false;

  constructor(element: HTMLElement, recipe: string, info: SlideInfo, painter: Painter, events: ViewerEvents) {
    if (!info.image) throw new Error("nothing is known of this slide's size");
    this.width = info.image.width;
    this.height = info.image.height;
    this.painter = painter;
    this.events = events;
    keepStylesOut();
    this.viewer = OpenSeadragon({
      element,
      tileSources: [tileSource(recipe, info, info.image)] as unknown as OpenSeadragon.TileSource[],
      drawer: new URLSearchParams(location.search).get("drawer") === "webgl" ? "webgl" : "canvas",
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "BOTTOM_RIGHT",
      navigatorAutoFade: false,
      navigatorSizeRatio: 0.16,
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.5,
      springStiffness: 9,
      // An overview has few px for a large slide: without much more, a tile of it would stay a speck.
      maxZoomPixelRatio: info.file ? 8 : 64,
      minZoomImageRatio: 0.6,
      preserveImageSizeOnResize: true,
      visibilityRatio: 0.4,
      // Every turn of the wheel counts: how far it turned says how far to zoom.
      minScrollDeltaTime: -1,
      imageLoaderLimit: 8,
      maxImageCacheCount: 600,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false, pinchRotate: false },
      gestureSettingsPen: { clickToZoom: false, dblClickToZoom: false },
    } as unknown as OpenSeadragon.Options);
    this.viewer.canvas.append(this.canvas, this.band);
    // The page has its own keys, and a slide has no up: nothing turns or flips it.
    const tracker = (this.viewer as unknown as { innerTracker: Record<string, unknown> }).innerTracker;
    tracker.keyHandler = null;
    tracker.keyDownHandler = null;
    this.viewer.canvas.setAttribute("aria-label", `Slide ${info.slide_id}`);
    this.listen(element);
    this.events.state("opening");
  }

  /** Where the slide is on the screen now, in the midst of a movement too. */
  get sight(): Sight {
    const size = this.viewer.viewport.getContainerSize();
    const origin = this.viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const right = this.viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
    return { left: origin.x, top: origin.y, scale: (right.x - origin.x) / this.width, width: size.x, height: size.y };
  }

  /** Middle of the view, level-0 px, and CSS px per level-0 px, where a movement will end. */
  get place(): { x: number; y: number; z: number } {
    const centre = this.viewer.viewport.getCenter(false);
    const size = this.viewer.viewport.getContainerSize();
    return { x: centre.x * this.width, y: centre.y * this.width, z: (this.viewer.viewport.getZoom(false) * size.x) / this.width };
  }

  /** Look there: middle in level-0 px, CSS px per level-0 px. */
  look(x: number, y: number, z: number, now = false): void {
    const size = this.viewer.viewport.getContainerSize();
    const most = this.viewer.viewport.getMaxZoom();
    this.viewer.viewport.zoomTo(Math.min((z * this.width) / size.x, most), undefined, now);
    this.viewer.viewport.panTo(new OpenSeadragon.Point(x / this.width, y / this.width), now);
  }

  fit(now = false): void {
    this.viewer.viewport.goHome(now);
  }

  zoomBy(factor: number): void {
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  /** By shares of the view. */
  panBy(dx: number, dy: number): void {
    const bounds = this.viewer.viewport.getBounds();
    this.viewer.viewport.panBy(new OpenSeadragon.Point(bounds.width * dx, bounds.height * dy));
    this.viewer.viewport.applyConstraints();
  }

  /** Paint the overlay again at the next frame. */
  repaint(): void {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.paint();
    });
  }

  destroy(): void {
    this.ending.abort();
    cancelAnimationFrame(this.asked);
    this.viewer.destroy();
  }

  private listen(element: HTMLElement): void {
    const { viewer } = this;
    viewer.addHandler("open", () => {
      this.events.state("open");
      this.watchLoading();
      this.repaint();
    });
    viewer.addHandler("open-failed", (event) => this.events.state("failed", String((event as { message?: string }).message ?? "")));
    viewer.addHandler("update-viewport", () => this.paint());
    viewer.addHandler("resize", () => this.repaint());
    viewer.addHandler("animation-finish", () => this.events.rest());
    viewer.addHandler("canvas-press", (event) => this.press(event as Gesture));
    viewer.addHandler("canvas-drag", (event) => this.drag(event as Gesture));
    viewer.addHandler("canvas-drag-end", (event) => {
      if (this.drawing) (event as Gesture).preventDefaultAction = true;
    });
    viewer.addHandler("canvas-release", (event) => this.release(event as Gesture));
    viewer.addHandler("canvas-scroll", (event) => this.scroll(event as Gesture));
    viewer.addHandler("canvas-click", (event) => this.click(event as Gesture));
    const signal = this.ending.signal;
    element.addEventListener("pointermove", (event) => this.point(element, event), { signal, capture: true });
    // A ring around the slide is for those who came by keyboard.
    element.addEventListener("pointerdown", () => { element.dataset.pointed = ""; }, { signal, capture: true });
    element.addEventListener("focusout", () => { delete element.dataset.pointed; }, { signal });
    element.addEventListener("pointerleave", () => this.events.pointer(null, null), { signal });
  }

  private watchLoading(): void {
    const image = this.viewer.world.getItemAt(0);
    if (!image) return;
    const tell = (): void => this.events.state(image.getFullyLoaded() ? "loaded" : "open");
    image.addHandler("fully-loaded-change", tell);
    tell();
  }

  private level0(position: OpenSeadragon.Point): [number, number] {
    const { left, top, scale } = this.sight;
    return [(position.x - left) / scale, (position.y - top) / scale];
  }

  private point(element: HTMLElement, event: PointerEvent): void {
    const box = element.getBoundingClientRect();
    const [x, y] = this.level0(new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top));
    this.events.pointer(x, y);
  }

  /** By how far the wheel turned: a notch of a mouse is a third nearer, and a trackpad's many small steps stay small. */
  private scroll(event: Gesture): void {
    event.preventDefaultAction = true;
    const wheel = event.originalEvent as WheelEvent;
    const px = wheel.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? wheel.deltaY : wheel.deltaY * 33;
    const { viewport } = this.viewer;
    viewport.zoomBy(Math.exp(-Math.min(MOST_WHEEL_PX, Math.max(-MOST_WHEEL_PX, px)) * 0.003), viewport.pointFromPixel(event.position, true));
    viewport.applyConstraints();
  }

  private press(event: Gesture): void {
    const wanted = this.regionMode || (event.originalEvent as MouseEvent | undefined)?.shiftKey === true;
    this.start = wanted ? event.position : null;
    this.drawing = false;
  }

  private drag(event: Gesture): void {
    if (!this.start) return;
    event.preventDefaultAction = true;
    this.drawing = true;
    this.band.hidden = false;
    const [x, y] = [Math.min(this.start.x, event.position.x), Math.min(this.start.y, event.position.y)];
    this.band.style.transform = `translate(${x}px, ${y}px)`;
    this.band.style.width = `${Math.abs(event.position.x - this.start.x)}px`;
    this.band.style.height = `${Math.abs(event.position.y - this.start.y)}px`;
  }

  private release(event: Gesture): void {
    const { start, drawing } = this;
    this.start = null;
    this.band.hidden = true;
    if (!start || !drawing) return;
    const [ax, ay] = this.level0(start);
    const [bx, by] = this.level0(event.position);
    // The click that the browser reports after the drag is none.
    window.setTimeout(() => { this.drawing = false; }, 0);
    const box = [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)].map(Math.round);
    if (Math.hypot(event.position.x - start.x, event.position.y - start.y) > 6) this.events.region(box as unknown as Box);
  }

  private click(event: Gesture): void {
    if (!event.quick || this.drawing) return;
    event.preventDefaultAction = true;
    const [x, y] = this.level0(event.position);
    if (x >= 0 && y >= 0 && x < this.width && y < this.height) this.events.click(x, y, event.originalEvent as PointerEvent);
  }

  private paint(): void {
    if (!this.viewer.isOpen()) return;
    const { sight } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(sight.width * ratio), Math.round(sight.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.canvas.style.width = `${sight.width}px`;
      this.canvas.style.height = `${sight.height}px`;
    }
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = false;
    this.painter(context, sight);
  }
}

/**
 * OpenSeadragon adds a style element, which a strict policy refuses and reports, unless it finds its own already: this
 * one has the name and is of no namespace that a browser knows.
 */
function keepStylesOut(): void {
  const mark = "data-openseadragon-mobile-css";
  if (document.querySelector(`style[${mark}]`)) return;
  const inert = document.createElementNS("urn:beph-store:inert", "style");
  inert.setAttribute(mark, "");
  document.head.append(inert);
}

/** What handlers get; `preventDefaultAction` keeps OpenSeadragon from doing its own. */
interface Gesture {
  position: OpenSeadragon.Point;
  quick?: boolean;
  originalEvent?: Event;
  preventDefaultAction?: boolean;
}

/** Tiles of the slide's file; the stored overview where that has moved. Its width is the slide's, so both have one frame. */
function tileSource(recipe: string, info: SlideInfo, image: NonNullable<SlideInfo["image"]>): object {
  const base = `/api/recipes/${recipe}/slides/${info.slide}`;
  if (!info.file) return { type: "image", url: `${base}/thumbnail.jpg`, buildPyramid: false };
  return {
    width: image.width,
    height: image.height,
    tileSize: image.tile_px,
    tileOverlap: image.overlap,
    // Below this a level is one tile of few px: OpenSeadragon would ask for each of them first.
    minLevel: Math.min(8, image.max_level),
    maxLevel: image.max_level,
    getTileUrl: (level: number, x: number, y: number) => `${base}/image_files/${level}/${x}_${y}.jpg?v=${encodeURIComponent(image.version)}`,
  };
}
