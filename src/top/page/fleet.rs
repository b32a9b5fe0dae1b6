//! Who serves: local targets, cards as the driver describes them, providers with their models and breakers. Pure.

use super::{
    super::{
        picture::{Card, Cards, Level, Picture, Provider, Score, Status, Target},
        verdict::{serves, word},
    },
    cut, dim, meter, plain, state, title,
};
use crate::words::{bytes, ms, num, percent, span};
use ratatui::text::{Line, Span};

/// Columns of a meter.
const METER: usize = 16;

pub(super) fn lines(picture: &Picture, width: usize) -> Vec<Line<'static>> {
    let Picture { status, cards, .. } = picture;
    let mut lines = Vec::new();
    status.gpus.iter().for_each(|gpu| lines.extend(target(gpu, width)));
    cards.gpus.iter().flatten().for_each(|gpu| lines.extend(card(gpu)));
    lines.extend(host(cards, width));
    status.providers.iter().for_each(|provider| lines.extend(cloud(provider, status, width)));
    if status.providers.is_empty() {
        lines.push(Line::from(dim("no cloud provider has a key")));
    }
    lines
}

fn level(state: &str) -> Level {
    match state {
        "warm" => Level::Ok,
        "cold" => Level::Note,
        "down" | "quarantined" => Level::Bad,
        _ => Level::Warn,
    }
}

fn target(gpu: &Target, width: usize) -> Vec<Line<'static>> {
    let level = if gpu.serving { level(&gpu.state) } else { level(&gpu.state).max(Level::Warn) };
    let mut facts = vec![gpu.model.clone()];
    facts.extend(gpu.device.as_ref().map(|device| format!("on {device}")));
    facts.extend(gpu.engine_pid.map(|pid| format!("pid {pid}")));
    facts.push(format!("epoch {}", gpu.epoch));
    let mut lines = vec![Line::from(vec![
        Span::raw(format!("gpu/{}  ", cut(&gpu.name, 30))),
        state(level, &gpu.state),
        dim(format!("  {}", cut(&facts.join(" · "), width.saturating_sub(gpu.name.len() + 20)))),
    ])];
    if let Some(cause) = &gpu.cause {
        lines.push(plain(format!("  cause       {}", cut(cause, width.saturating_sub(14)))));
    }
    let part = gpu.leases as f64 / gpu.parallel.max(1) as f64;
    lines.push(measured("leases", meter(part, METER), format!("{} of {}", gpu.leases, gpu.parallel)));
    if let (Some(used), Some(total)) = (gpu.work.kv_used, gpu.work.kv_total.filter(|total| *total > 0)) {
        let part = used as f64 / total as f64;
        lines.push(measured("KV cells", meter(part, METER), format!("{used} of {total}")));
    }
    if let (Some(running), Some(waiting)) = (gpu.work.running, gpu.work.waiting) {
        lines.push(plain(format!("  engine      {running} running, {waiting} waiting")));
    }
    lines.push(plain(format!("  last minute {}", score(&gpu.last_minute))));
    if let Some(death) = &gpu.last_death {
        let text = format!("{} ago: {}", span(death.ago_ms as f64 / 1000.0), death.cause);
        lines.push(plain(format!("  last death  {}", cut(&text, width.saturating_sub(14)))));
    }
    lines.push(plain(""));
    lines
}

fn score(score: &Score) -> String {
    if score.attempts == 0 {
        return "idle".to_owned();
    }
    format!(
        "{} of {} succeed · first token {} · per token {}",
        percent(score.success_ratio),
        score.attempts,
        ms(score.first_token_ms),
        ms(score.inter_token_ms)
    )
}

fn measured(name: &str, meter: Span<'static>, text: String) -> Line<'static> {
    Line::from(vec![Span::raw(format!("  {name:<12}")), meter, Span::raw(format!(" {text}"))])
}

fn card(card: &Card) -> Vec<Line<'static>> {
    let (level, word) = match (&card.fault, &card.slowdown) {
        (Some(fault), _) => (Level::Bad, word(fault)),
        (None, Some(slowdown)) => (Level::Warn, format!("slowed: {}", word(slowdown))),
        (None, None) => (Level::Ok, "healthy".to_owned()),
    };
    let name = if card.name.is_empty() { &card.uuid } else { &card.name };
    let degrees = card.temperature_celsius.map_or_else(|| "–".to_owned(), |heat| format!("{heat:.0} °C"));
    let watts = card.power_watts.map_or_else(|| "–".to_owned(), |power| format!("{} W", num(power)));
    let mut lines = vec![Line::from(vec![
        Span::raw(format!("card {}  ", card.index)),
        state(level, &cut(&word, 40)),
        dim(format!("  {}", cut(name, 40))),
    ])];
    if let (Some(used), Some(total)) = (card.memory_used_bytes, card.memory_total_bytes.filter(|total| *total > 0.0)) {
        let text = format!("{} of {}", bytes(Some(used)), bytes(Some(total)));
        lines.push(measured("memory", meter(used / total, METER), text));
    }
    if let Some(work) = card.utilization_ratio {
        lines.push(measured("at work", meter(work, METER), percent(Some(work))));
    }
    lines.push(plain(format!("  heat        {degrees} · power {watts}")));
    lines.push(plain(""));
    lines
}

fn host(cards: &Cards, width: usize) -> Vec<Line<'static>> {
    let memory = &cards.system_memory;
    let (Some(used), Some(total)) = (memory.used_bytes, memory.total_bytes.filter(|total| *total > 0.0)) else {
        return Vec::new();
    };
    let word = cards.gpus.as_ref().map_or_else(|| cards.status.clone(), |gpus| format!("{} cards", gpus.len()));
    let level = if cards.gpus.is_some() { Level::Ok } else { Level::Note };
    let mut lines = vec![Line::from(vec![
        Span::raw("host  "),
        state(level, &cut(&word, 20)),
        dim(format!("  {}", cut(&cards.detail, width.saturating_sub(30)))),
    ])];
    lines.push(measured(
        "memory",
        meter(used / total, METER),
        format!("{} of {}", bytes(Some(used)), bytes(Some(total))),
    ));
    lines.push(plain(""));
    lines
}

fn cloud(provider: &Provider, status: &Status, width: usize) -> Vec<Line<'static>> {
    let breakers: Vec<_> = status.breakers.iter().filter(|breaker| breaker.target == provider.name).collect();
    let open = breakers.iter().filter(|breaker| breaker.state != "passing").count();
    let (level, word) = match provider.reachable {
        _ if open > 0 => (Level::Warn, format!("{open} tripped")),
        _ if serves(provider) => (Level::Ok, "answers".to_owned()),
        None => (Level::Note, "not probed".to_owned()),
        Some(true) => (Level::Ok, "reachable".to_owned()),
        Some(false) => (Level::Bad, "no answer".to_owned()),
    };
    let simulated = if provider.simulated { "simulated " } else { "" };
    let error = provider.error.as_deref().unwrap_or_default();
    let mut lines = vec![Line::from(vec![
        Span::raw(format!("cloud/{}  ", cut(&provider.name, 30))),
        state(level, &word),
        dim(format!("  {simulated}{}", cut(error, width.saturating_sub(50)))),
    ])];
    for model in &provider.models {
        let breaker = breakers.iter().find(|breaker| breaker.model == model.model);
        let standing = match breaker.filter(|breaker| breaker.state != "passing") {
            Some(breaker) => state(Level::Warn, &format!("breaker {}", cut(&breaker.state, 20))),
            None => Span::raw(score(&model.last_minute)),
        };
        lines.push(Line::from(vec![Span::raw(format!("  {:<28}  ", cut(&model.model, 28))), standing]));
    }
    if lines.len() == 1 {
        lines.push(title("  no models"));
    }
    lines.push(plain(""));
    lines
}
