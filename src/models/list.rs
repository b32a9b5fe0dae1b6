//! `models ls` and `models verify`: what is known, what is here, and whether it is what it should be.

use super::{Named, USAGE, bar, digest, find, used_by};
use crate::cli::{self, say};
use serde::Serialize;
use spillway_actors::{
    config::{Capability, Config, Source},
    gguf::check_one,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Folders below `models/` that are looked into: `hf/OWNER/REPO/…`.
const DEPTH: usize = 6;
/// Files listed at most.
const MOST: usize = 10_000;

/// One line of `ls`.
#[derive(Debug, Serialize)]
struct Line {
    /// `None`: a file that no catalogue names.
    name: Option<String>,
    title: Option<String>,
    path: PathBuf,
    present: bool,
    bytes: Option<u64>,
    /// Of an unfinished download.
    partial_bytes: Option<u64>,
    sha256: Option<String>,
    context_tokens: Option<u32>,
    capabilities: Vec<Capability>,
    sources: Vec<Source>,
    smaller: Vec<String>,
    /// Local targets that load it.
    used_by: Vec<String>,
}

pub(super) fn run(config: &Config, json: bool) -> ExitCode {
    let lines = lines(config);
    if json {
        say(&serde_json::to_string_pretty(&lines).unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    say(&format!("{:<24} {:>10}  {:<8} {}", "NAME", "SIZE", "HERE", "WHAT"));
    for line in &lines {
        let name = line.name.as_deref().unwrap_or("-");
        let here = match (line.present, line.partial_bytes) {
            (true, _) => "yes",
            (false, Some(_)) => "partly",
            (false, None) => "no",
        };
        let size = line.bytes.map(bar::bytes).unwrap_or_default();
        let what = line.title.clone().unwrap_or_else(|| line.path.display().to_string());
        say(&format!("{name:<24} {size:>10}  {here:<8} {what}"));
    }
    ExitCode::SUCCESS
}

fn lines(config: &Config) -> Vec<Line> {
    let known = config.catalogue.names().filter_map(|name| find(config, name).ok());
    let mut lines: Vec<Line> = known.map(|named| of_named(config, &named)).collect();
    for path in files(&config.cache_dir.join("models")) {
        if lines.iter().all(|line| line.path != path) {
            lines.push(of_file(config, path));
        }
    }
    lines
}

fn of_named(config: &Config, Named { name, model, kept, .. }: &Named) -> Line {
    Line {
        name: Some(name.clone()),
        title: Some(model.title.clone()),
        path: kept.path.clone(),
        present: kept.size().is_some(),
        bytes: kept.size().or(model.bytes),
        partial_bytes: kept.partial(),
        sha256: model.sha256.clone().or_else(|| kept.noted_digest()),
        context_tokens: model.context_tokens,
        capabilities: model.capabilities.clone(),
        sources: model.sources.clone(),
        smaller: model.smaller.clone(),
        used_by: used_by(config, &kept.path),
    }
}

fn of_file(config: &Config, path: PathBuf) -> Line {
    let kept = super::Kept::at(path);
    Line {
        name: hub_name(&config.cache_dir, &kept.path),
        title: None,
        present: true,
        bytes: kept.size(),
        partial_bytes: None,
        sha256: kept.noted_digest(),
        context_tokens: None,
        capabilities: Vec::new(),
        sources: Vec::new(),
        smaller: Vec::new(),
        used_by: used_by(config, &kept.path),
        path: kept.path,
    }
}

/// `…/models/hf/OWNER/REPO/FILE` → `hf:OWNER/REPO/FILE`.
fn hub_name(cache_dir: &Path, path: &Path) -> Option<String> {
    let inside = path.strip_prefix(cache_dir.join("models/hf")).ok()?;
    Some(format!("hf:{}", inside.to_str()?))
}

/// Every model file below `folder`, in order of path.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    look_into(folder, DEPTH, &mut found);
    found.sort();
    found
}

fn look_into(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || found.len() >= MOST {
            continue;
        }
        if kind.is_dir() && depth > 0 {
            look_into(&path, depth - 1, found);
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && path.is_file() {
            found.push(path);
        }
    }
}

/// What became of one file.
#[derive(Debug, Serialize)]
struct Verdict {
    name: String,
    path: PathBuf,
    ok: bool,
    /// Whether there was a checksum to compare with.
    checksum_known: bool,
    /// What is wrong.
    fault: Option<String>,
}

pub(super) fn verify(config: &Config, names: &[String], json: bool) -> ExitCode {
    let named: Result<Vec<Named>, String> = if names.is_empty() {
        let here = lines(config).into_iter().filter(|line| line.present);
        let by_name =
            |line: Line| line.name.map_or_else(|| Ok(super::own_file(&line.path)), |name| find(config, &name));
        here.map(by_name).collect()
    } else {
        names.iter().map(|name| find(config, name)).collect()
    };
    let named = match named {
        Ok(named) => named,
        Err(why) => {
            cli::failed(&why);
            return ExitCode::from(USAGE);
        }
    };
    let verdicts: Vec<Verdict> = named.iter().map(judge).collect();
    let ok = verdicts.iter().all(|verdict| verdict.ok);
    if json {
        say(&serde_json::to_string_pretty(&verdicts).unwrap_or_default());
    } else {
        verdicts.iter().for_each(|verdict| say(&describe(verdict)));
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn describe(verdict: &Verdict) -> String {
    match (&verdict.fault, verdict.checksum_known) {
        (Some(fault), _) => format!("{}: {fault} ({})", verdict.name, verdict.path.display()),
        (None, true) => format!("{}: right", verdict.name),
        (None, false) => format!("{}: whole, but no checksum is known to compare it with", verdict.name),
    }
}

fn judge(named: &Named) -> Verdict {
    let expected = named.model.sha256.clone().or_else(|| named.kept.noted_digest());
    let fault = fault(named, expected.as_deref());
    Verdict {
        name: named.name.clone(),
        path: named.kept.path.clone(),
        ok: fault.is_none(),
        checksum_known: expected.is_some(),
        fault,
    }
}

/// What is wrong with a model's file; `None`: nothing.
pub(super) fn fault(named: &Named, expected: Option<&str>) -> Option<String> {
    let path = &named.kept.path;
    if let Err(error) = check_one(path) {
        let absent = named.kept.size().is_none();
        return Some(if absent { "is not here".to_owned() } else { error.to_string() });
    }
    let digest = match expected.map(|expected| (expected, digest::of_file(path)))? {
        (_, Err(error)) => return Some(error.to_string()),
        (expected, Ok(digest)) if digest == expected => return None,
        (_, Ok(digest)) => digest,
    };
    Some(format!("has another checksum: sha256 {digest}"))
}
