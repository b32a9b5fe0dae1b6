//! From the merged tree to types that cannot be invalid. Reads everything before it judges, so that one run shows every
//! fault. Opens no file itself: keys and tokens come through the caller's `read`.

mod catalogue;
mod cloud;
mod edge;
mod keys;
mod ledger;
mod limits;
mod loading;
mod local;
mod models;
mod money;
mod names;
mod otel;
mod router;
mod server;

use super::{
    Config,
    fault::{ConfigFaults, Show, Warning},
    raw::{self, Merged, Node, Texts},
    schema::Known,
    section::{Report, Section},
    sources::{ReadFile, Sources},
};
use names::Names;
use std::sync::Arc;

/// Built-in defaults < file < environment < flags, checked as a whole.
///
/// # Errors
/// Every fault of every layer, or only the syntax faults when a file is not TOML.
pub fn load(sources: &Sources, read: ReadFile<'_>) -> Result<(Config, Vec<Warning>), ConfigFaults> {
    let mut texts = Texts::default();
    let Merged { root, syntax, misplaced } = raw::merged(&mut texts, sources);
    let report = Report::new(&texts);
    let readable = syntax.is_empty();
    for (origin, message) in syntax.into_iter().chain(misplaced) {
        report.fault_showing(&origin, Show::Line, message);
    }
    let config = if readable { resolve(&root, &Context { sources, read, report: &report }) } else { None };
    let (faults, warnings) = report.into_parts();
    match config {
        Some(config) if faults.is_empty() => Ok((config, warnings)),
        _ => Err(ConfigFaults::new(faults)),
    }
}

/// Which keys the reading of a file asks for, and what each may hold; what the file says is not judged.
pub(super) fn known(sources: &Sources) -> Known {
    let mut texts = Texts::default();
    let Merged { root, .. } = raw::merged(&mut texts, sources);
    let report = Report::new(&texts);
    let nothing: ReadFile<'_> = &|_| Err(std::io::ErrorKind::NotFound.into());
    resolve(&root, &Context { sources, read: nothing, report: &report });
    report.into_known()
}

/// What every part of the reading may need.
struct Context<'a> {
    sources: &'a Sources,
    read: ReadFile<'a>,
    report: &'a Report<'a>,
}

fn resolve(root: &Node, context: &Context<'_>) -> Option<Config> {
    let top = Section::new(context.report, root)?;
    let mut names = Names::default();
    let server = top.section("server").and_then(|section| server::server(section, context));
    let keys = top.section("keys").and_then(|section| keys::keys(section, context));
    let catalogue = catalogue::catalogue(&top, context);
    let chaos = top.section("chaos").and_then(limits::chaos);
    let locals = local::locals(&top, context, &catalogue, &mut names);
    local::judge_simulated(&locals, chaos == Some(true), context);
    let clouds = cloud::clouds(&top, context, &mut names);
    let all_on_cpu = !locals.is_empty() && locals.iter().all(|local| local.gpu.as_deref() == Some("cpu"));
    let router = top.section("router").and_then(|section| router::router(section, context, &mut names, all_on_cpu));
    let supervision = top.section("supervision").and_then(limits::supervision);
    let ledger = top.section("ledger").and_then(|section| ledger::ledger(section, context, &mut names));
    let energy = top.section("energy").and_then(ledger::energy);
    let currency = top.section("currency").and_then(ledger::currency);
    let health = top.section("health").and_then(limits::health);
    let otel = top.section("otel").and_then(|section| otel::otel(section, context));
    top.finish();
    names.warn_of_dropped(context.report);
    if context.report.is_clean() && !context.sources.need_not_serve {
        cloud::judge(&locals, &clouds, context.report);
    }
    Some(Config {
        server: server?,
        keys: keys?,
        locals: locals.into_iter().map(Arc::new).collect(),
        clouds: clouds.into_iter().map(Arc::new).collect(),
        router: router?,
        supervision: supervision?,
        ledger: ledger?,
        energy: energy?,
        currency: currency?,
        health: health?,
        otel: otel?,
        chaos_enabled: chaos?,
        catalogue,
        cache_dir: context.sources.cache_dir.clone(),
    })
}
