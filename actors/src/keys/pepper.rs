//! The pepper: what the digests of keys are keyed with. Without it a stolen key store says nothing about any secret. It
//! lives beside the store in a file of its own, or comes from the environment.

use super::secret::Secret;
use crate::config::PepperSource;
use rand::{TryRng, rngs::SysRng};
use secrecy::{ExposeSecret, SecretBox, zeroize::Zeroize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Whatever text a pepper comes as, the key is derived from it for this one purpose.
const CONTEXT: &str = "spillway 2026-11-26 pepper of API keys";
/// Hashed with the pepper, it says which pepper that is.
const NAME: &[u8] = b"which pepper";
/// Fewer characters are no secret.
pub(crate) const MIN_CHARS: usize = 32;
const MAX_BYTES: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    #[error("the pepper of API keys, {path}, {what}: {source}")]
    File { path: PathBuf, what: &'static str, source: io::Error },
    #[error("the pepper of API keys, {0}, must hold {MIN_CHARS} to {MAX_BYTES} visible ASCII characters")]
    Malformed(PathBuf),
}

/// Derived and ready to use.
#[derive(Debug)]
pub struct Pepper {
    key: SecretBox<[u8; 32]>,
    name: String,
}

impl Pepper {
    /// From a text of at least 32 characters.
    pub fn of(text: &str) -> Self {
        let mut key = blake3::derive_key(CONTEXT, text.as_bytes());
        let name = blake3::keyed_hash(&key, NAME).to_hex().chars().take(16).collect();
        let boxed = SecretBox::new(Box::new(key));
        key.zeroize();
        Self { key: boxed, name }
    }

    /// What a secret is stored as and found by.
    pub fn digest(&self, secret: &Secret) -> [u8; 32] {
        blake3::keyed_hash(self.key.expose_secret(), secret.expose().as_bytes()).into()
    }

    /// Tells peppers apart and says nothing else about them.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The configured pepper; `None` = its file does not exist yet.
    ///
    /// # Errors
    /// The file cannot be read, or holds no pepper.
    pub fn find(source: &PepperSource) -> Result<Option<Self>, PepperError> {
        match source {
            PepperSource::Text(text) => Ok(Some(Self::of(text.expose_secret()))),
            PepperSource::File(path) => read(path),
        }
    }

    /// The configured pepper, made now if its file does not exist yet.
    ///
    /// # Errors
    /// As [`Pepper::find`], or the file cannot be made.
    pub fn find_or_make(source: &PepperSource) -> Result<Self, PepperError> {
        if let Some(pepper) = Self::find(source)? {
            return Ok(pepper);
        }
        let PepperSource::File(path) = source else { return Err(PepperError::Malformed(PathBuf::new())) };
        make(path).map_err(|source| failed(path, "cannot be made", source))?;
        // Somebody else may have been first: theirs counts.
        read(path)?.ok_or_else(|| failed(path, "went away", io::ErrorKind::NotFound.into()))
    }
}

fn failed(path: &Path, what: &'static str, source: io::Error) -> PepperError {
    PepperError::File { path: path.to_owned(), what, source }
}

fn read(path: &Path) -> Result<Option<Pepper>, PepperError> {
    let unreadable = |error| failed(path, "cannot be read", error);
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if about.permissions().mode() & 0o007 != 0 {
        tracing::warn!(path = %path.display(), "everybody on this machine may use the pepper of API keys: chmod 600");
    }
    if about.len() > MAX_BYTES {
        return Err(PepperError::Malformed(path.to_owned()));
    }
    let mut text = fs::read_to_string(path).map_err(unreadable)?;
    let trimmed = text.trim();
    let good = trimmed.len() >= MIN_CHARS && trimmed.bytes().all(|byte| byte.is_ascii_graphic());
    let pepper = good.then(|| Pepper::of(trimmed));
    text.zeroize();
    pepper.map(Some).ok_or_else(|| PepperError::Malformed(path.to_owned()))
}

/// Puts a whole new pepper under `path`, unless something is there already; never a part of one.
fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut bits = [0; 32];
    SysRng.try_fill_bytes(&mut bits).map_err(|error| io::Error::other(error.to_string()))?;
    let mut text = blake3::Hash::from_bytes(bits).to_hex().to_string();
    bits.zeroize();
    let draft = path.with_added_extension(format!("{:016x}", rand::random::<u64>()));
    let written = write_private(&draft, text.as_bytes()).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    });
    text.zeroize();
    let _ = fs::remove_file(&draft);
    written?;
    File::open(folder)?.sync_all()
}

/// A new file that only its owner reads, on the disk when this returns.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::tests::Folder;

    #[test]
    fn a_pepper_is_made_once_for_its_owner_only_and_stays() {
        let folder = Folder::new();
        let source = PepperSource::File(folder.path("pepper"));
        assert!(Pepper::find(&source).unwrap().is_none(), "looking makes nothing");
        let made = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| Pepper::find_or_make(&source).unwrap())).collect();
            makers.into_iter().map(|maker| maker.join().unwrap().name().to_owned()).collect::<Vec<_>>()
        });
        let again = Pepper::find(&source).unwrap().unwrap();
        assert!(made.iter().all(|name| name == again.name()), "who was late takes the first one's: {made:?}");
        assert_eq!(fs::metadata(folder.path("pepper")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path(".")).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_is_no_pepper_is_refused() {
        let folder = Folder::new();
        for text in ["", "short", "with a space in the middle of a long enough line", &"x".repeat(5000)] {
            fs::write(folder.path("pepper"), text).unwrap();
            assert!(Pepper::find_or_make(&PepperSource::File(folder.path("pepper"))).is_err(), "{text:.40}");
        }
    }

    #[test]
    fn another_pepper_gives_another_digest_and_another_name() {
        let (one, two) = (Pepper::of(&"1".repeat(32)), Pepper::of(&"2".repeat(32)));
        let secret = Secret::presented("sk").unwrap();
        assert_ne!(one.digest(&secret), two.digest(&secret));
        assert_ne!(one.name(), two.name());
        assert!(!format!("{one:?}").contains("1111"));
    }
}
