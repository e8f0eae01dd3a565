"""Reference pictures: what each module gains, and what their sum keeps of it."""

from collections.abc import Sequence

from IPython.display import HTML, display

from mtdiff.results.questions.references import KEPT, Kept, list_kept, summarise_references
from mtdiff.results.render import Aside, html_aside, number
from mtdiff.results.study import Study

from .canvas import draw_point, make_panels, say, show_figure
from .comparison import show_made


def show_references(study: Study) -> None:
    """Single modules, sums, joint training, IP-Adapter and ablations of the gate beside the text alone."""
    table = summarise_references([run.result for run in study.every])
    if table.lines:
        show_made(table)
    else:
        say("No result is of the task `reference` (suite=emma makes them).")


def draw_sums(study: Study) -> None:
    """By how much each sum is ahead of KEPT of each module's gain; right of zero the promise holds."""
    kept = list_kept([run.result for run in study.every])
    if not kept:
        say("The results hold no sum of modules with its parts and the text alone beside it.")
        return
    figure, panels = make_panels(1, 1, 6.5, 0.9 + 0.3 * len(kept))
    axes = panels[0, 0]
    for y, one in enumerate(kept):
        filled = "#d55e00" if one.verdict == "holds" else "white"
        draw_point(axes, y, one.beyond, False, color="#d55e00", mfc=filled)
    axes.axvline(0, color="#222", lw=0.8)
    labels = [f"{' + '.join(one.parts)}: {one.reference} ({one.column.metric})" for one in kept]
    axes.set_yticks(range(len(kept)), labels, fontsize=8)
    axes.set_ylim(len(kept) - 0.5, -0.5)
    axes.set_xlabel(f"sum, ahead of {KEPT:.0%} of the module's gain")
    show_figure(figure, "kept", "What sums of modules keep of each module's gain, with 95 % intervals")
    show_shares(kept)


def show_shares(kept: Sequence[Kept]) -> None:
    head = ["sum", "module", "measured by", "its gain alone", "share kept", f"at least {KEPT:.0%}"]
    rows = [
        [
            " + ".join(one.parts),
            one.reference,
            one.column.metric,
            number(one.gain),
            "no gain to keep" if one.share is None else f"{one.share:.0%}",
            one.verdict,
        ]
        for one in kept
    ]
    display(HTML(html_aside(Aside("What sums keep", head, rows))))
