"""The papers' claims as a table: verdict, differences, and what is missing."""

from IPython.display import HTML, display

from mtdiff.results.questions.claims import CLAIMS, choose_judged, describe_finding
from mtdiff.results.render import Aside, html_aside
from mtdiff.results.study import Study

from .canvas import say
from .comparison import NARROW, STYLE


def show_claims(study: Study) -> None:
    """A row a claim, as in docs/claims.md."""
    chosen, judged = choose_judged(study.every)
    if not judged:
        say("No result is judged on 256 test examples a task, as the suites say, so no claim can be judged.")
        return
    found = [(claim, claim.judge(chosen, judged)) for claim in CLAIMS]
    rows = [[c.text, c.published, f.verdict, describe_finding(f).replace("<br>", "; ")] for c, f in found]
    table = html_aside(Aside("Claims", ["claim", "published", "here", "difference"], rows))
    display(HTML(f"<style>{STYLE}{NARROW}</style>{table}"))
