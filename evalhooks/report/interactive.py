"""The charts of the page: the pictures of charts.py as plotly figures, with every number under the pointer.

Backgrounds are transparent and grid lines half so; the page colours all text by CSS, so one figure serves light and dark.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from evalhooks.report import charts, course
from evalhooks.report.details import curves, loss_figure
from evalhooks.report.facts import RewardModel, Study, number, points, series, shorten
from evalhooks.report.prose import interval
from evalhooks.rewardbench.domains import DOMAINS

GRID = "rgba(128,140,155,0.22)"
LINE = "rgba(128,140,155,0.9)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SHADES = [[0.0, "rgba(47,126,216,0.04)"], [1.0, "rgba(47,126,216,0.92)"]]


def figures(study: Study) -> Mapping[str, go.Figure]:
    """The figures that the study has data for, by the name of their place on the page."""
    drawn: dict[str, go.Figure] = {}
    if charts.scored(study):
        drawn["benchmark"] = benchmark_vs_bon(study)
    if any(_domain_link(study, key) for key in DOMAINS):
        drawn["links"] = domain_links(study)
    if study.models:
        drawn["domains"] = domains(study)
    if any(rm.checkpoints for rm in study.models):
        drawn["training"] = training(study)
    if (losses := loss_figure(study)) is not None:
        drawn["losses"] = _finish(losses, 320 * (1 + (len(curves(study)) > 2)))
    if any(run.checkpoints for run in study.runs):
        drawn["ppo"] = ppo(study)
    for place, run in enumerate(study.runs, 1):
        if run.checkpoints:
            drawn[f"course-{place}"] = over_optimisation(course.course_of(run))
    return drawn


def _finish(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """The look that all figures share."""
    figure.update_layout(
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13},
        margin={"l": 56, "r": 12, "t": 34, "b": 48},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "title": {"text": ""}},
        hoverlabel={"align": "left"},
        **layout,
    )
    figure.update_xaxes(gridcolor=GRID, linecolor=GRID, zeroline=False)
    figure.update_yaxes(gridcolor=GRID, linecolor=GRID, zeroline=False)
    return figure


def _card(rm: RewardModel) -> str:
    """What the pointer shows of an RM. Plotly reads tags in text, so names are escaped."""
    setup = [rm.data, rm.base, f"lr {rm.lr:g}" if rm.lr is not None else "", f"{rm.epochs:g} epochs" if rm.epochs is not None else ""]
    control = "<br>control" if rm.control else ""
    return f"<b>{escape(rm.name)}</b><br>{escape(', '.join(part for part in setup if part))}{control}"


def _legend_marks(study: Study) -> list[go.Scatter]:
    """Empty traces that explain marks and hollowness; a click on them hides nothing."""
    keys = [(charts.mark(study, base)[1], base or "no base") for base in study.bases] if len(study.bases) > 1 else []
    if any(rm.control for rm in study.models):
        keys.append(("circle-open", "hollow: control"))
    marker = {"color": LINE, "size": 9}
    return [
        go.Scatter(x=[None], y=[None], mode="markers", name=escape(n), marker={**marker, "symbol": s}, hoverinfo="skip") for s, n in keys
    ]


def _symbol(study: Study, rm: RewardModel) -> str:
    return charts.mark(study, rm.base)[1] + ("-open" if rm.control else "")


def benchmark_vs_bon(study: Study) -> go.Figure:
    """RewardBench 2 overall against best-of-N average, with regression and reference lines."""
    figure = go.Figure()
    if (line := charts.regression(study)) is not None:
        figure.add_scatter(x=line[0], y=line[1], mode="lines", line={"color": LINE, "width": 1.5}, hoverinfo="skip", showlegend=False)
    for mix in study.mixes:
        models, tint = [rm for rm in charts.scored(study) if rm.data == mix], charts.colour(study, mix)
        figure.add_scatter(
            x=[100 * (rm.overall or 0.0) for rm in models],
            y=[100 * (rm.bon_average or 0.0) for rm in models],
            mode="markers",
            name=escape(mix),
            text=[_card(rm) for rm in models],
            marker={"color": tint, "size": 11, "symbol": [_symbol(study, rm) for rm in models], "line": {"width": 2, "color": tint}},
            hovertemplate="%{text}<br>RewardBench 2 %{x:.1f}<br>" + study.bon_name + " %{y:.1f}<extra></extra>",
        )
    figure.add_traces(_legend_marks(study))
    for height, label in charts.reference_lines(study):
        _reference(figure, height, label)
    _finish(figure, 480, xaxis_title=f"RewardBench 2 {study.score_name} (points)", yaxis_title=f"{study.bon_name} average (points)")
    return figure


def _reference(figure: go.Figure, height: float, label: str, **place: Any) -> None:
    line = {"color": LINE, "dash": "dash", "width": 1}
    figure.add_hline(y=height, line=line, annotation={"text": label, "font": {"size": 12}}, annotation_position="top right", **place)


def _domain_link(study: Study, domain: str) -> Any:
    link = study.links.get(f"rewardbench2/{domain}~bon/average")
    return link if link is not None and link.pearson is not None else None


def domain_links(study: Study) -> go.Figure:
    """Pearson r with its interval, for the overall score and for each domain."""
    rows = [(label, _domain_link(study, key)) for key, label in {study.score_key: study.score_title, **DOMAINS}.items()]
    rows = [(label, link) for label, link in rows if link is not None][::-1]
    low = [link.pearson - link.low if link.low is not None else 0.0 for _, link in rows]
    high = [link.high - link.pearson if link.high is not None else 0.0 for _, link in rows]
    figure = go.Figure(
        go.Scatter(
            x=[link.pearson for _, link in rows],
            y=[label for label, _ in rows],
            mode="markers",
            marker={"color": charts.MIX_COLOURS[0], "size": 10},
            error_x={"type": "data", "symmetric": False, "array": high, "arrayminus": low, "color": LINE, "thickness": 1.5},
            text=[f"r = {number(link.pearson)} ({interval(link)})" for _, link in rows],
            hovertemplate="%{y}<br>%{text}<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"color": LINE, "dash": "dash", "width": 1})
    _finish(figure, 130 + 32 * len(rows), xaxis_title=f"Pearson r with the {study.bon_name} average")
    lowest = min([link.low for _, link in rows if link.low is not None], default=0.0)
    figure.update_xaxes(range=[min(-0.1, lowest - 0.05), 1.05])
    figure.update_yaxes(automargin=True)
    return figure


def domains(study: Study) -> go.Figure:
    """Heat map of every RM (best overall first) over domains and best-of-N tasks."""
    halves = charts.grids(study)
    figure = make_subplots(
        rows=1,
        cols=len(halves),
        column_widths=[len(columns) for _, columns, _ in halves],
        horizontal_spacing=0.02,
        shared_yaxes=True,
        subplot_titles=[title for title, _, _ in halves],
    )
    # Rows are placed by index because two RMs may share a name, which a category axis would merge.
    rows = list(range(len(study.models)))
    for index, (title, columns, values) in enumerate(halves, start=1):
        text = [["n/a" if np.isnan(value) else f"{value:.1f}" for value in row] for row in values]
        heat = go.Heatmap(
            x=[escape(name) for name in columns],
            y=rows,
            z=[[None if np.isnan(value) else float(value) for value in row] for row in values],
            text=text,
            texttemplate="%{text}",
            textfont={"size": 12},
            customdata=[[_card(rm)] * len(columns) for rm in study.models],
            hovertemplate="%{customdata}<br>" + title + ", %{x}: %{text}<extra></extra>",
            colorscale=SHADES,
            zmin=0,
            zmax=100,
            showscale=False,
            xgap=2,
            ygap=2,
        )
        figure.add_trace(heat, row=1, col=index)
    labels = [escape(shorten(rm.name, 30)) + (" (control)" if rm.control else "") for rm in study.models]
    _finish(figure, 150 + 27 * len(rows))
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True, tickmode="array", tickvals=rows, ticktext=labels)
    figure.update_xaxes(showgrid=False, tickangle=-35, automargin=True)
    return figure


def training(study: Study) -> go.Figure:
    """RewardBench 2 overall and best-of-N average at the checkpoints of every RM, side by side on one step axis."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=charts.training_titles(study), horizontal_spacing=0.08)
    named: set[str] = set()
    for rm in study.models:
        tint = charts.colour(study, rm.data)
        for column, metric in enumerate((f"rewardbench2/{study.score_key}", "bon/average"), start=1):
            steps, values = series(rm.checkpoints, metric)
            trace = go.Scatter(
                x=steps,
                y=[100 * value for value in values],
                mode="lines+markers",
                name=escape(rm.data),
                legendgroup=escape(rm.data),
                legendrank=study.mixes.index(rm.data),
                showlegend=bool(steps) and rm.data not in named,
                line={"color": tint, "width": 2, "dash": "dash" if rm.control else "solid"},
                marker={"symbol": _symbol(study, rm), "size": 7},
                text=[_card(rm)] * len(steps),
                hovertemplate="%{text}<br>step %{x}: %{y:.1f}<extra></extra>",
            )
            figure.add_trace(trace, row=1, col=column)
            named.update({rm.data} if steps else set())
    figure.add_traces(_legend_marks(study))
    for height, label in charts.start_line(study):
        _reference(figure, height, label, row=1, col=2)
    _finish(figure, 430, yaxis_title="points")
    figure.update_xaxes(title_text="checkpoint/step", matches="x")
    return figure


def ppo(study: Study) -> go.Figure:
    """Downstream average of every PPO run with its start and its best checkpoint, beside RM score and KL."""
    titles = [title for _, title, _ in charts.PPO_PANELS]
    figure = make_subplots(rows=1, cols=3, column_widths=[1.5, 1, 1], subplot_titles=titles, horizontal_spacing=0.06)
    for index, run in enumerate(study.runs):
        tint, label = charts.RUN_COLOURS[index % len(charts.RUN_COLOURS)], escape(charts.run_label(run))
        for column, (metric, _, factor) in enumerate(charts.PPO_PANELS, start=1):
            steps, values = series(run.checkpoints, metric)
            figure.add_trace(
                go.Scatter(
                    x=steps,
                    y=[factor * value for value in values],
                    mode="lines+markers",
                    name=label,
                    legendgroup=str(index),
                    showlegend=column == 1,
                    line={"color": tint, "width": 2},
                    marker={"size": 7},
                    hovertemplate=label + "<br>step %{x}: %{y:.4g}<extra></extra>",
                ),
                row=1,
                col=column,
            )
        if run.best is not None and run.best_step is not None:
            figure.add_trace(_best(run.best_step, 100 * run.best, tint, str(index), run.best_step), row=1, col=1)
    for start in sorted({run.start for run in study.runs if run.start is not None}):
        _reference(figure, 100 * start, f"start {points(start)}", row=1, col=1)
    _finish(figure, 430)
    figure.update_xaxes(title_text="checkpoint/step", matches="x")
    return figure


def _best(place: float, height: float, tint: str, group: str, step: int) -> go.Scatter:
    marker = {"symbol": "star", "size": 15, "color": tint, "line": {"color": "white", "width": 1}}
    text = f"best checkpoint, step {step}: {height:.1f}<extra></extra>"
    return go.Scatter(x=[place], y=[height], mode="markers", legendgroup=group, showlegend=False, marker=marker, hovertemplate=text)


def over_optimisation(drawn: course.Course) -> go.Figure:
    """Proxy and truth of one PPO run over steps and over the square root of the KL; below, the RM's accuracy."""
    figure = make_subplots(
        rows=2,
        cols=2,
        row_heights=[0.68, 0.32],
        specs=[[{"secondary_y": True}, {"secondary_y": True}], [{}, {}]],
        shared_xaxes=True,  # within a column
        vertical_spacing=0.06,
        horizontal_spacing=0.12,
        subplot_titles=course.panel_titles(drawn),
    )
    steps = [point.step for point in drawn.points]
    roots = [None if point.kl is None else course.root(point.kl) for point in drawn.points]
    lines = (
        (course.TRUTH_NAME, course.TRUTH, [point.truth for point in drawn.points], 1, False, "solid", "circle"),
        (course.PROXY_NAME, course.PROXY, [point.proxy for point in drawn.points], 1, True, "dash", "square"),
        (course.ACCURACY_NAME, course.ACCURACY, [point.accuracy for point in drawn.points], 2, None, "solid", "triangle-up"),
    )
    for name, tint, values, row, secondary, dash, symbol in lines:
        for column, places in enumerate((steps, roots), 1):
            trace = go.Scatter(
                x=places,
                y=values,
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1 and any(value is not None for value in values),
                line={"color": tint, "width": 2, "dash": dash},
                marker={"symbol": symbol, "size": 7},
                customdata=[[point.step, "n/a" if point.kl is None else f"{point.kl:.3g}"] for point in drawn.points],
                hovertemplate=name + "<br>step %{customdata[0]}, KL %{customdata[1]} nats: %{y:.4g}<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=column, secondary_y=secondary)
    _mark_course(figure, drawn, (steps, roots))
    _finish(figure, 560)
    _course_scales(figure, drawn)
    return figure


def _mark_course(figure: go.Figure, drawn: course.Course, places: Sequence[Sequence[float | None]]) -> None:
    """The best checkpoint, the step at which the run was stopped, and the accuracy of chance."""
    for column, xs in enumerate(places, 1):
        for point, x in zip(drawn.points, xs, strict=True):
            if x is not None and point is drawn.best:
                figure.add_trace(_best(x, point.truth or 0.0, course.TRUTH, course.TRUTH_NAME, point.step), row=1, col=column)
            if x is not None and point.step == drawn.stop_step:
                stop: dict[str, Any] = {"row": 1, "col": column, "line": {"color": course.STOP, "dash": "dot", "width": 1.5}}
                figure.add_vline(x=x, **stop)
                if column == 1:
                    text = "stopped: over-optimisation "
                    figure.add_annotation(x=x, y=0.5, yref="y domain", xanchor="right", text=text, showarrow=False, font={"size": 12})
        chance: dict[str, Any] = {"row": 2, "col": column, "line": {"color": LINE, "dash": "dash", "width": 1}}
        figure.add_hline(y=50, **chance)


def _course_scales(figure: go.Figure, drawn: course.Course) -> None:
    ticks = course.kl_ticks(drawn)
    figure.update_xaxes(title_text=course.STEP_LABEL, row=2, col=1)
    figure.update_xaxes(title_text=course.KL_LABEL, row=2, col=2)
    figure.update_xaxes(tickvals=[course.root(tick) for tick in ticks], ticktext=[f"{tick:g}" for tick in ticks], col=2)
    figure.update_yaxes(title_text=course.TRUTH_LABEL, row=1, col=1, secondary_y=False)
    figure.update_yaxes(title_text=course.proxy_label(drawn), row=1, col=2, secondary_y=True)
    figure.update_yaxes(title_text=course.ACCURACY_LABEL, row=2, col=1)
    if (limits := course.scale_limits(drawn)) is not None:
        figure.update_yaxes(range=limits[0], tickvals=course.truth_ticks(limits[0]), row=1, secondary_y=False)
        figure.update_yaxes(range=limits[1], row=1, secondary_y=True)
    figure.update_yaxes(showgrid=False, tickmode="auto", row=1, secondary_y=True)
    figure.update_yaxes(title_font={"size": 12})


def html(drawn: Mapping[str, go.Figure], names: Sequence[str]) -> Mapping[str, str]:
    """One `<div>` per figure, without plotly.js, which the page holds once."""
    config = {"displayModeBar": False, "responsive": True}
    return {
        name: drawn[name].to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, div_id=f"chart-{name}", config=config)
        for name in names
        if name in drawn
    }
