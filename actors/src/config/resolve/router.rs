//! `[router]`: the classifier, other names for models, and one rule for each complexity.

use super::{Context, Names, money::amount, names::RESERVED};
use crate::{
    classify::Cuts,
    config::{
        CascadeConfig, ClassifierKind, HedgeConfig, RouterConfig, Rule, RuleTarget, SessionConfig, UnknownModels,
        raw::{Entry, Value},
        schema::Kind,
        section::{Placed, Report, Section},
    },
    domain::Complexity,
};
use std::collections::BTreeMap;

pub(super) fn router(
    section: Section<'_>,
    context: &Context<'_>,
    names: &mut Names,
    all_on_cpu: bool,
) -> Option<RouterConfig> {
    let report = context.report;
    let classifier = classifier(&section, report);
    let unknown = section.choice("unknown_models", &[("refuse", UnknownModels::Refuse), ("auto", UnknownModels::Auto)]);
    let aliases = aliases(&section, report, names);
    let rules = section.section("rules").and_then(|rules| {
        let found = Complexity::ALL.map(|complexity| {
            let rule = rules.section(complexity.as_str())?;
            self::rule(rule, report, names, all_on_cpu)
        });
        rules.finish();
        let [trivial, moderate, complex, premium] = found;
        Some([trivial?, moderate?, complex?, premium?])
    });
    let session = section.section("session").and_then(session);
    let hedge = section.section("hedge").and_then(hedge);
    let cascade = section.section("cascade").and_then(cascade);
    section.finish();
    let (session, hedge, cascade, unknown_models) = (session?, hedge?, cascade?, unknown?.value);
    Some(RouterConfig { unknown_models, session, hedge, cascade, ..RouterConfig::new(classifier?, aliases?, rules?) })
}

fn session(section: Section<'_>) -> Option<SessionConfig> {
    let ttl = section.millis("ttl_ms", 1);
    let max_sessions = section.size("max_sessions", 0..=1_000_000);
    let max_queue_gap = section.millis("max_queue_gap_ms", 0);
    section.finish();
    Some(SessionConfig { ttl: ttl?, max_sessions: max_sessions?, max_queue_gap: max_queue_gap? })
}

fn hedge(section: Section<'_>) -> Option<HedgeConfig> {
    let enabled = section.flag("enabled");
    let after = section.millis("after_ms", 1);
    let max_per_hour = amount(&section, "max_usd_per_hour");
    section.finish();
    Some(HedgeConfig { enabled: enabled?, after: after?, max_per_hour: max_per_hour? })
}

fn cascade(section: Section<'_>) -> Option<CascadeConfig> {
    let enabled = section.flag("enabled");
    let hold_back_tokens = section.small("hold_back_tokens", 0..=1024);
    let mean = section.decimal("min_mean_logprob", -100.0..=0.0);
    section.finish();
    let min_mean_logprob = mean.map(|mean| Some(mean).filter(|mean| *mean < 0.0));
    Some(CascadeConfig { enabled: enabled?, min_mean_logprob: min_mean_logprob?, hold_back_tokens: hold_back_tokens? })
}

fn classifier(section: &Section<'_>, report: &Report<'_>) -> Option<ClassifierKind> {
    let learned = section.choice("classifier", &[("keywords", false), ("learned", true)]);
    let cuts = section.section("cuts").and_then(|cuts| self::cuts(cuts, report));
    Some(if learned?.value { ClassifierKind::Learned(cuts?) } else { ClassifierKind::Keywords })
}

fn cuts(section: Section<'_>, report: &Report<'_>) -> Option<Cuts> {
    let points = ["moderate", "complex", "premium"].map(|key| section.decimal(key, 0.0..=1.0));
    let origin = section.origin();
    section.finish();
    let [moderate, complex, premium] = points.map(|point| point.map(f64::from));
    let cuts = Cuts::new([moderate?, complex?, premium?]);
    if cuts.is_none() {
        report.fault(origin, "`router.cuts` must not descend: moderate <= complex <= premium");
    }
    cuts
}

fn aliases(section: &Section<'_>, report: &Report<'_>, names: &Names) -> Option<BTreeMap<String, String>> {
    section.learn("aliases", Kind::TextsByName);
    let entry = section.entry("aliases")?;
    let path = section.path_of("aliases");
    let Some(table) = entry.node.table() else {
        report.fault(&entry.node.origin, format!("`{path}` must be a table of strings, not {}", entry.node.kind()));
        return None;
    };
    let aliases = table.iter().map(|(alias, entry)| {
        let target = alias_target(&path, alias, entry, report, names)?;
        Some((alias.clone(), target))
    });
    aliases.collect::<Vec<_>>().into_iter().collect()
}

fn alias_target(path: &str, alias: &str, entry: &Entry, report: &Report<'_>, names: &Names) -> Option<String> {
    let Value::Text(target) = &entry.node.value else {
        report.fault(&entry.node.origin, format!("`{path}.{alias}` must be a string, not {}", entry.node.kind()));
        return None;
    };
    if names.is_choice(alias) {
        report.fault(&entry.key, format!("the alias `{alias}` is the name of something else already"));
        return None;
    }
    if !names.is_choice(target) {
        let placed = Placed { value: target.clone(), origin: entry.node.origin.clone() };
        names.refuse_unknown(&format!("{path}.{alias}"), &placed, report);
        return None;
    }
    Some(target.clone())
}

fn rule(section: Section<'_>, report: &Report<'_>, names: &mut Names, all_on_cpu: bool) -> Option<Rule> {
    let prefer = targets(&section, "prefer", report, names);
    let fallback = targets(&section, "fallback", report, names);
    let stated = section.millis("max_latency_ms", 1);
    let on_cpu = section.millis("max_latency_cpu_ms", 1);
    let spill_load = section.decimal("spill_load", 0.0..=1000.0);
    let is_users = |key| section.entry(key).is_some_and(|entry| report.texts.is_users(&entry.node.origin));
    // Who states one bound means it everywhere; who states both (a copy of the default file does) means each.
    let for_both = is_users("max_latency_ms") && !is_users("max_latency_cpu_ms");
    section.finish();
    let (stated, on_cpu) = (stated?, on_cpu?);
    let max_latency_cpu = if for_both { stated } else { on_cpu };
    Some(Rule {
        prefer: prefer?,
        fallback: fallback?,
        max_latency: if all_on_cpu { max_latency_cpu } else { stated },
        max_latency_is_default: !for_both,
        max_latency_cpu,
        spill_load: f64::from(spill_load?),
    })
}

/// Configured targets in order. A name nobody configured is a fault in a list the user wrote; from a built-in list it is
/// dropped.
fn targets(
    section: &Section<'_>,
    key: &'static str,
    report: &Report<'_>,
    names: &mut Names,
) -> Option<Vec<RuleTarget>> {
    let list = section.texts(key)?;
    let by_user = section.entry(key).is_some_and(|entry| report.texts.is_users(&entry.node.origin));
    let mut targets: Vec<RuleTarget> = Vec::new();
    for name in &list {
        let found = names.targets_of(&name.value);
        if found.is_empty() && by_user {
            refuse(section, key, name, report, names);
        } else if found.is_empty() {
            names.drop_built_in(&name.value);
        }
        for target in found {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
    }
    Some(targets)
}

fn refuse(section: &Section<'_>, key: &str, name: &Placed<String>, report: &Report<'_>, names: &Names) {
    let path = section.path_of(key);
    if RESERVED.contains(&name.value.as_str()) {
        let why = if name.value == "local" { "there is no [[local]]" } else { "a rule must name what it means" };
        report.fault(&name.origin, format!("`{path}` names `{}`, but {why}", name.value));
    } else {
        names.refuse_unknown(&path, name, report);
    }
}
