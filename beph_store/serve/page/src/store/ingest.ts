/** Start an ingest as a job: paths on the server's machine, under a folder that its operator named. */

import { post, reason } from "../api.ts";
import { dialog } from "../dialog.ts";
import { h, icon } from "../dom.ts";
import { sentence } from "../format.ts";
import { go, link } from "../router.ts";
import { recipeInfo, recipeKey, recipeName } from "../session.ts";
import { toast } from "../toast.ts";
import type { Job } from "../types.ts";

const FIRST_ENCODER = "beph-mini";

/** Ask which slides, and start. */
export function askIngest(): void {
  const recipe = recipeInfo();
  const paths = h("textarea", { class: "field", id: "ingest-paths", rows: 5, autofocus: true, spellcheck: "false", placeholder: "batch7\nbatch8/slide-001.svs", "data-test": "ingest-paths" });
  const trouble = h("p", { class: "bad", role: "alert", "data-test": "ingest-trouble" });
  const start = async (event: Event): Promise<void> => {
    event.preventDefault();
    const slides = paths.value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (slides.length === 0) {
      paths.focus();
      return;
    }
    try {
      const body = recipe ? { kind: "ingest", recipe: recipeKey(), options: { slides } } : { kind: "ingest", options: { slides, encoder: FIRST_ENCODER } };
      const job = await post<Job>("/api/jobs", body);
      close();
      toast("The slides are in the queue.", "good", { label: "Show the job", run: () => go(link("/jobs/:id", { id: job.job })) });
    } catch (thrown) {
      trouble.textContent = sentence(reason(thrown));
    }
  };
  const close = dialog("Add slides", [
    h(
      "form",
      { class: "stack", onsubmit: (event: Event) => void start(event) },
      h("label", { for: "ingest-paths" }, "Slides or folders, one a line"),
      paths,
      h("p", { class: "muted" }, "Paths on the server's machine, under a folder it was given with ", h("code", null, "--ingest-root"), ". ",
        recipe ? `They are cut and embedded as this recipe was made: ${recipeName(recipe)}.` : `They are embedded with ${FIRST_ENCODER}.`),
      trouble,
      h("div", { class: "row end" }, h("button", { class: "button primary", type: "submit", "data-test": "start-ingest" }, icon("play"), "Start")),
    ),
  ]);
}
