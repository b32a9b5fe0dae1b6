"""How Grafana writes things down: dashboards, panels, targets. Knows nothing of what is on them.

In expressions `@` stands for the matchers of the dashboard's variables and `[~]` for the rate interval, so that no panel can
forget either. A panel that is about the chosen range as a whole says `[=]`.
"""

import copy

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
MATCHERS = 'job=~"$job", instance=~"$instance"'
COLUMNS = 24
ALL = {"text": "All", "value": "$__all"}


def expression(text):
    """The PromQL that Grafana is given."""
    return text.replace("@", MATCHERS).replace("[~]", "[$__rate_interval]").replace("[=]", "[$__range]")


class Panel:
    """One panel: what it shows, in which unit, and why anyone should look."""

    def __init__(self, title, about, unit, *queries, kind="timeseries", width=8, height=8, **look):
        self.title, self.about, self.unit, self.queries = title, about, unit, queries
        self.kind, self.width, self.height, self.look = kind, width, height, look

    def json(self, number, x, y):
        instant = self.kind in ("stat", "table", "bargauge")
        targets = []
        for letter, (text, legend) in zip("ABCDEFGH", self.queries):
            target = {"refId": letter, "datasource": SOURCE, "expr": expression(text), "legendFormat": legend}
            targets.append(target | ({"instant": True, "range": False} if instant else {"instant": False, "range": True}))
        panel = {
            "id": number, "type": self.kind, "title": self.title, "description": self.about, "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": self.defaults(), "overrides": []},
            "options": self.options(), "targets": targets,
        }
        if self.kind == "table":
            for target in targets:
                target["format"] = "table"
            hidden = {"Time": True, "Value": True, "__name__": True, "alertstate": True}
            panel["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
        return panel

    def defaults(self):
        defaults = {"unit": self.unit}
        for name in ("min", "max", "decimals"):
            if name in self.look:
                defaults[name] = self.look[name]
        steps = self.look.get("steps")
        if steps:
            defaults["thresholds"] = {"mode": "absolute", "steps": [
                {"value": value, "color": color} for value, color in steps]}
        if "names" in self.look:
            defaults["mappings"] = [{"type": "value", "options": {
                str(value): {"text": text, "color": color, "index": index}
                for index, (value, (text, color)) in enumerate(self.look["names"].items())}}]
        if self.kind == "timeseries":
            custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": False}
            if self.look.get("stack"):
                custom |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40}
            if steps:
                custom["thresholdsStyle"] = {"mode": "dashed"}
            defaults["custom"] = custom
        return defaults

    def options(self):
        if self.kind == "timeseries":
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        if self.kind == "state-timeline":
            return {"mergeValues": True, "showValue": "never", "rowHeight": 0.8,
                    "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
        if self.kind in ("stat", "bargauge"):
            reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            more = {"orientation": "horizontal"} if self.kind == "bargauge" else {"colorMode": "value", "graphMode": "none"}
            return {"reduceOptions": reduce} | more
        return {"showHeader": True}


class Row:
    """A heading with its panels, laid from left to right."""

    def __init__(self, title, *panels):
        self.title, self.panels = title, panels


def variable(name, label, query, about):
    return {"name": name, "label": label, "description": about, "type": "query", "datasource": SOURCE, "query": query,
            "refresh": 2, "includeAll": True, "allValue": ".*", "multi": True, "sort": 1, "current": copy.copy(ALL)}


def annotation(name, about, text, title, color):
    return {"name": name, "enable": True, "hide": False, "iconColor": color, "datasource": SOURCE, "tags": [about],
            "expr": expression(text), "step": "15s", "titleFormat": title, "useValueForTime": False}


def dashboard(uid, title, about, rows, variables=(), annotations=()):
    panels, number, y = [], 0, 0
    for row in rows:
        number += 1
        panels.append({"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            panels.append(panel.json(number, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
              "description": "A Prometheus that scrapes the gateway's admin listener and has loaded config/rules.yml"}
    jobs = variable("job", "Job", "label_values(spillway_build_info, job)", "Gateways that are one service")
    instances = variable("instance", "Instance", 'label_values(spillway_build_info{job=~"$job"}, instance)',
                         "One gateway of them")
    link = {"title": "Spillway", "type": "dashboards", "tags": ["spillway"], "asDropdown": False, "includeVars": True,
            "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}
    return {
        "uid": uid, "title": title, "description": about, "tags": ["spillway"], "schemaVersion": 39, "version": 1,
        "editable": True, "graphTooltip": 1, "refresh": "10s", "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"}, "links": [link],
        "templating": {"list": [source, jobs, instances, *variables]},
        "annotations": {"list": list(annotations)}, "panels": panels,
    }
