//! Where a model's file lies, and the names beside it while it is not whole: `.NAME.part` (what was fetched so far),
//! `.NAME.part.etag` (of which version), `.NAME.lock` (who fetches), `NAME.sha256` (what it was, when no catalogue says).

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// Kept free beside a download.
const MARGIN_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
}

impl Kept {
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    fn beside(&self, before: &str, after: &str) -> PathBuf {
        let mut name = OsString::from(before);
        name.push(self.path.file_name().unwrap_or_default());
        name.push(after);
        self.path.with_file_name(name)
    }

    pub(super) fn part(&self) -> PathBuf {
        self.beside(".", ".part")
    }

    pub(super) fn etag(&self) -> PathBuf {
        self.beside(".", ".part.etag")
    }

    fn lock_path(&self) -> PathBuf {
        self.beside(".", ".lock")
    }

    pub(super) fn sidecar(&self) -> PathBuf {
        self.beside("", ".sha256")
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Bytes of the finished file; `None` without one.
    pub(super) fn size(&self) -> Option<u64> {
        size(&self.path)
    }

    pub(super) fn partial(&self) -> Option<u64> {
        size(&self.part())
    }

    /// The checksum noted when it was fetched.
    pub(super) fn noted_digest(&self) -> Option<String> {
        let text = fs::read_to_string(self.sidecar()).ok()?;
        let digest = text.split_whitespace().next()?;
        (digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| digest.to_owned())
    }

    /// Makes the folder and takes the lock, if nobody holds it.
    pub(super) fn try_lock(&self) -> io::Result<Option<Lock>> {
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits for the lock.
    pub(super) fn lock(&self) -> io::Result<Lock> {
        let file = self.lock_file()?;
        file.lock()?;
        Ok(Lock(file))
    }

    fn lock_file(&self) -> io::Result<File> {
        fs::create_dir_all(self.folder())?;
        File::options().create(true).truncate(false).write(true).open(self.lock_path())
    }

    /// Forgets what was fetched so far.
    pub(super) fn drop_part(&self) {
        let _ = fs::remove_file(self.part());
        let _ = fs::remove_file(self.etag());
    }

    /// Gives the verified part its name. Whoever looks sees the old file or the whole new one.
    pub(super) fn finish(&self, digest: Option<&str>) -> io::Result<()> {
        File::open(self.part())?.sync_all()?;
        match digest {
            Some(digest) => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                fs::write(self.sidecar(), format!("{digest}  {name}\n"))?;
            }
            None => drop(fs::remove_file(self.sidecar())),
        }
        fs::rename(self.part(), &self.path)?;
        let _ = fs::remove_file(self.etag());
        File::open(self.folder())?.sync_all()
    }

    /// Takes over a whole file that lies elsewhere and is known to be right. It stays there as well, for whoever names it by
    /// its path; both names share one copy where the disk can do that.
    pub(super) fn adopt(&self, other: &Path) -> io::Result<()> {
        self.drop_part();
        if fs::hard_link(other, self.part()).is_err() {
            fs::copy(other, self.part())?;
        }
        self.finish(None)
    }

    /// Removes everything of it. Returns how many bytes that freed.
    pub(super) fn remove(&self) -> Result<u64, String> {
        let (whole, part) = (self.size(), self.partial());
        if whole.is_none() && part.is_none() {
            return Err(format!("{} is not here", self.path.display()));
        }
        let lock = self.try_lock().map_err(|error| error.to_string())?;
        let Some(lock) = lock else { return Err("it is being fetched just now".to_owned()) };
        if whole.is_some() {
            fs::remove_file(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        }
        let _ = fs::remove_file(self.sidecar());
        self.drop_part();
        let _ = fs::remove_file(self.lock_path());
        drop(lock);
        Ok(whole.unwrap_or(0) + part.unwrap_or(0))
    }

    /// # Errors
    /// The disk has no room for `needed` more bytes.
    pub(super) fn check_room(&self, needed: u64) -> Result<(), String> {
        let Some(free) = free_bytes(self.folder()) else { return Ok(()) };
        if needed.saturating_add(MARGIN_BYTES) <= free {
            return Ok(());
        }
        let (needed, free) = (super::bar::bytes(needed), super::bar::bytes(free));
        Err(format!("{} has {free} free, and {needed} more are needed", self.folder().display()))
    }
}

/// Held for as long as a file is being made. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "open = locked")] File);

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|about| about.len())
}

/// Bytes that this user may still write there.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    Some(about.f_bavail.saturating_mul(about.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str) -> Kept {
        let folder = std::env::temp_dir().join(format!("spillway-store-{}-{name}", std::process::id()));
        Kept::at(folder.join("model.gguf"))
    }

    #[test]
    fn nobody_else_fetches_while_the_lock_is_held() {
        let kept = kept("lock");
        let lock = kept.try_lock().unwrap().expect("free");
        assert!(kept.try_lock().unwrap().is_none());
        fs::write(kept.part(), b"abc").unwrap();
        assert!(kept.remove().unwrap_err().contains("being fetched"));
        drop(lock);
        assert_eq!(kept.remove(), Ok(3));
        assert!(kept.remove().unwrap_err().contains("not here"));
        fs::remove_dir_all(kept.folder()).unwrap();
    }

    #[test]
    fn a_part_gets_its_name_whole_and_its_checksum_is_noted() {
        let kept = kept("finish");
        let _lock = kept.try_lock().unwrap();
        fs::write(kept.part(), b"abc").unwrap();
        let digest = "ab".repeat(32);
        kept.finish(Some(&digest)).unwrap();
        assert_eq!((kept.size(), kept.partial(), kept.noted_digest()), (Some(3), None, Some(digest)));
        fs::remove_dir_all(kept.folder()).unwrap();
    }

    #[test]
    fn a_file_that_is_taken_over_has_both_names() {
        let kept = kept("adopt");
        let _lock = kept.try_lock().unwrap();
        let other = kept.path.with_file_name("other.gguf");
        fs::write(&other, b"abc").unwrap();
        kept.adopt(&other).unwrap();
        assert_eq!((fs::read(&kept.path).unwrap(), fs::read(&other).unwrap()), (b"abc".to_vec(), b"abc".to_vec()));
        assert_eq!(kept.partial(), None);
        fs::remove_dir_all(kept.folder()).unwrap();
    }

    #[test]
    fn a_full_disk_is_noticed_before_the_download() {
        let kept = kept("room");
        fs::create_dir_all(kept.folder()).unwrap();
        assert!(kept.check_room(1).is_ok());
        assert!(kept.check_room(u64::MAX / 2).unwrap_err().contains("are needed"));
        fs::remove_dir_all(kept.folder()).unwrap();
    }
}
