//! All keys, as requests find them: a published map from digests to keys, read without waiting. Creating and revoking go
//! through the store first, and the map is made anew from what the store then holds.

use super::{
    limiter::{EmbeddedLimiter, Limiter},
    pass::Pass,
    pepper::{Pepper, PepperError},
    record::{Digest, KeyRecord, KeyState, MAX_GROUPS},
    secret::Secret,
    store::{FileStore, KeyStore, MemoryStore, Stamp, StoreError},
    unix_now,
    wish::{Granted, KeyWish, WishFault},
};
use crate::{
    config::{KeysConfig, PepperSource},
    domain::Caller,
    keys::{Limits, Refusal, Standing},
    observe, task,
};
use arc_swap::ArcSwap;
use secrecy::SecretString;
use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    sync::Arc,
    time::Duration,
};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// How often the store is looked at for changes that others made: what `spillway keys revoke` writes without asking the
/// gateway holds after this.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Wish(#[from] WishFault),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pepper(#[from] PepperError),
    #[error("the key store holds keys, but their pepper, {0}, is not there; without it none can be recognised")]
    NoPepper(String),
    #[error("every key of the store was made with another pepper than the configured one, so none can be recognised")]
    OtherPepper,
    #[error("the system gives no randomness: {0}")]
    Random(io::Error),
    #[error("a thread that looks for the pepper died")]
    Thread,
}

/// A key that requests may come with.
#[derive(Debug)]
pub struct Key {
    pub record: KeyRecord,
    pub caller: Arc<Caller>,
}

/// What became of a secret that was shown.
#[derive(Debug, Clone)]
pub enum Recognised {
    Known(Arc<Key>),
    Unknown,
    Expired,
    Revoked,
}

/// Every key at one moment.
struct Directory {
    pepper: Option<Arc<Pepper>>,
    keys: Vec<Arc<Key>>,
    /// By the first bytes of their digest. A digest is keyed with the pepper, so nobody outside knows which place a guess
    /// of theirs leads to, and how long the way there takes says nothing about any secret.
    places: HashMap<[u8; 8], Vec<Arc<Key>>>,
    stamp: Stamp,
}

fn place(digest: &[u8; 32]) -> [u8; 8] {
    let mut place = [0; 8];
    for (to, from) in place.iter_mut().zip(digest) {
        *to = *from;
    }
    place
}

impl Directory {
    fn of(records: Vec<KeyRecord>, stamp: Stamp, pepper: Option<Arc<Pepper>>) -> Self {
        let groups: BTreeSet<String> = records.iter().map(|key| key.group.clone()).collect();
        let labels: BTreeSet<&String> = groups.iter().take(MAX_GROUPS).collect();
        let mut places: HashMap<[u8; 8], Vec<Arc<Key>>> = HashMap::new();
        let mut keys = Vec::with_capacity(records.len());
        for record in records {
            let mut caller = record.caller();
            if !labels.contains(&record.group) {
                caller.group = "other".into();
            }
            let key = Arc::new(Key { record, caller: Arc::new(caller) });
            places.entry(place(&key.record.digest.0)).or_default().push(Arc::clone(&key));
            keys.push(key);
        }
        Self { pepper, keys, places, stamp }
    }

    fn find(&self, digest: &[u8; 32]) -> Option<&Arc<Key>> {
        let found = self.places.get(&place(digest))?;
        found.iter().find(|key| bool::from(key.record.digest.0.ct_eq(digest)))
    }

    fn active(&self, now: u64) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.iter().filter(move |key| key.record.state(now) == KeyState::Active)
    }

    /// Good keys that nobody can use, because their pepper is another.
    fn unusable(&self, now: u64) -> usize {
        let name = self.pepper.as_ref().map(|pepper| pepper.name());
        self.active(now).filter(|key| name != Some(key.record.pepper.as_str())).count()
    }
}

struct Inner {
    store: Arc<dyn KeyStore>,
    /// Where the store is, for people.
    place: String,
    pepper: PepperSource,
    directory: ArcSwap<Directory>,
    limiter: Arc<dyn Limiter>,
    /// Held while the directory is made anew, so that what is older never replaces what is newer.
    renewing: tokio::sync::Mutex<()>,
}

/// Shared by all who ask about keys. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    inner: Arc<Inner>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("store", &self.inner.place).finish_non_exhaustive()
    }
}

impl Keys {
    /// The keys of a configured store. Looks at nothing yet: see [`Keys::renew`].
    pub fn configured(config: &KeysConfig) -> Self {
        let place = config.file.display().to_string();
        Self::new(Arc::new(FileStore::new(&config.file)), place, config.pepper.clone())
    }

    /// Keys that go with the process.
    pub fn in_memory() -> Self {
        let pepper = PepperSource::Text(SecretString::from(format!("{:032x}", rand::random::<u128>())));
        Self::new(Arc::new(MemoryStore::default()), "memory".to_owned(), pepper)
    }

    fn new(store: Arc<dyn KeyStore>, place: String, pepper: PepperSource) -> Self {
        // No store has this stamp twice in a row, so the first look reads.
        let directory = ArcSwap::from_pointee(Directory::of(Vec::new(), Stamp(u64::MAX), None));
        let limiter: Arc<dyn Limiter> = Arc::new(EmbeddedLimiter::default());
        Self {
            inner: Arc::new(Inner {
                store,
                place,
                pepper,
                directory,
                limiter,
                renewing: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Where the keys are kept, for people.
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// Whose key this is. `now` in seconds since 1970.
    pub fn recognise(&self, secret: &Secret, now: u64) -> Recognised {
        let directory = self.inner.directory.load();
        let Some(pepper) = &directory.pepper else { return Recognised::Unknown };
        let Some(key) = directory.find(&pepper.digest(secret)) else { return Recognised::Unknown };
        match key.record.state(now) {
            KeyState::Active => Recognised::Known(Arc::clone(key)),
            KeyState::Expired => Recognised::Expired,
            KeyState::Revoked => Recognised::Revoked,
        }
    }

    /// Every key, in order of creation.
    pub fn all(&self) -> Vec<Arc<Key>> {
        self.inner.directory.load().keys.clone()
    }

    /// Lets a request of `key` in.
    ///
    /// # Errors
    /// Its limits are reached.
    pub async fn enter(&self, key: &Key, now: Instant) -> Result<Pass, Refusal> {
        let limiter = Arc::clone(&self.inner.limiter);
        Pass::enter(limiter, key.caller.key.clone(), key.record.policy.limits, now).await
    }

    /// What is left of a key's limits.
    pub fn standing(&self, key: &Key, now: Instant) -> Standing {
        self.inner.limiter.standing(&key.caller.key, key.record.policy.limits, now)
    }

    pub fn limits(key: &Key) -> Limits {
        key.record.policy.limits
    }

    /// Makes a key. Its secret is not kept: whoever loses it makes another key.
    ///
    /// # Errors
    /// The wish cannot be granted, or the store or the pepper cannot be had.
    pub async fn create(&self, wish: KeyWish, now: u64) -> Result<(Secret, KeyRecord), KeysError> {
        let Granted { name, group, life_s, policy } = wish.judge()?;
        let source = self.inner.pepper.clone();
        let pepper = task::blocking(move || Pepper::find_or_make(&source));
        let pepper = pepper.await.map_err(|_| KeysError::Thread)??;
        let secret = Secret::generate().map_err(KeysError::Random)?;
        let record = KeyRecord {
            id: format!("key_{:016x}", rand::random::<u64>()),
            name,
            group,
            prefix: secret.shown(),
            digest: Digest(pepper.digest(&secret)),
            pepper: pepper.name().to_owned(),
            created_at: now,
            expires_at: life_s.map(|life| now.saturating_add(life)),
            revoked_at: None,
            policy,
        };
        self.inner.store.insert(record.clone()).await?;
        self.renew().await?;
        Ok((secret, record))
    }

    /// Revokes a key; when this returns, no request gets in with it any more. `None` = no such key.
    ///
    /// # Errors
    /// The store cannot be changed.
    pub async fn revoke(&self, id: &str, now: u64) -> Result<Option<KeyRecord>, KeysError> {
        let revoked = self.inner.store.revoke(id.to_owned(), now).await?;
        self.renew().await?;
        Ok(revoked)
    }

    /// Takes in what the store holds, if it has changed.
    ///
    /// # Errors
    /// The store cannot be read, or its pepper is missing: what was known before stays.
    pub async fn renew(&self) -> Result<(), KeysError> {
        let _renewing = self.inner.renewing.lock().await;
        if self.inner.store.stamp().await? == self.inner.directory.load().stamp {
            return Ok(());
        }
        let loaded = self.inner.store.load().await?;
        let source = self.inner.pepper.clone();
        let pepper = task::blocking(move || Pepper::find(&source)).await.map_err(|_| KeysError::Thread)??;
        let now = unix_now();
        let directory = Directory::of(loaded.keys, loaded.stamp, pepper.map(Arc::new));
        if directory.pepper.is_none() && directory.active(now).next().is_some() {
            let PepperSource::File(path) = &self.inner.pepper else { return Err(KeysError::Thread) };
            return Err(KeysError::NoPepper(path.display().to_string()));
        }
        let (active, unusable) = (directory.active(now).count(), directory.unusable(now));
        if active > 0 && unusable == active {
            return Err(KeysError::OtherPepper);
        }
        let good: BTreeSet<String> = directory.active(now).map(|key| key.record.id.clone()).collect();
        let all = directory.keys.len();
        self.inner.directory.store(Arc::new(directory));
        self.inner.limiter.retain(&|key| good.contains(key.as_str()));
        observe::keys(active, all - active, unusable);
        Ok(())
    }

    /// Follows changes that others make to the store, for as long as it is polled.
    pub async fn follow(self) {
        let mut last = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let told = self.renew().await.err().map(|error| error.to_string()).unwrap_or_default();
            if !told.is_empty() && told != last {
                observe::keys_not_renewed(&told);
            }
            last = told;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::tests::Folder;
    use std::fs;

    const NOW: u64 = 1_800_000_000;

    fn wish(name: &str) -> KeyWish {
        KeyWish { name: name.into(), ..KeyWish::default() }
    }

    fn configured(folder: &Folder) -> Keys {
        let pepper = PepperSource::File(folder.path("pepper"));
        Keys::configured(&KeysConfig { file: folder.path("keys.json"), pepper })
    }

    fn id(recognised: &Recognised) -> Option<String> {
        if let Recognised::Known(key) = recognised { Some(key.record.id.clone()) } else { None }
    }

    #[tokio::test]
    async fn a_key_is_recognised_until_it_expires_or_is_revoked() {
        let keys = Keys::in_memory();
        let (secret, record) = keys.create(KeyWish { expires_in_s: Some(60), ..wish("a") }, NOW).await.unwrap();
        let (other, _) = keys.create(wish("b"), NOW).await.unwrap();
        assert_eq!(id(&keys.recognise(&secret, NOW + 59)), Some(record.id.clone()));
        assert!(matches!(keys.recognise(&secret, NOW + 60), Recognised::Expired));
        for _ in 0..2 {
            let revoked = keys.revoke(&record.id, NOW + 5).await.unwrap().unwrap();
            assert_eq!(revoked.revoked_at, Some(NOW + 5));
        }
        assert!(matches!(keys.recognise(&secret, NOW), Recognised::Revoked));
        assert!(matches!(keys.recognise(&other, NOW), Recognised::Known(_)), "the other one stays");
        assert!(keys.revoke("key_none", NOW).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nothing_like_a_key_is_one() {
        let keys = Keys::in_memory();
        let (secret, _) = keys.create(wish("a"), NOW).await.unwrap();
        let (text, end) = (secret.expose().to_owned(), secret.expose().len() - 1);
        for near in [&text[..end], &text[1..], &format!("{text}A"), &text.to_lowercase(), "sk-spillway-", "x"] {
            let guess = Secret::presented(near).unwrap();
            assert!(matches!(keys.recognise(&guess, NOW), Recognised::Unknown), "{near}");
        }
    }

    #[tokio::test]
    async fn what_one_process_writes_another_follows_and_restarts_find() {
        let folder = Folder::new();
        let (gateway, command) = (configured(&folder), configured(&folder));
        gateway.renew().await.unwrap();
        assert_eq!(fs::read_dir(folder.path(".")).unwrap().count(), 0, "looking leaves no file");
        let (secret, record) = command.create(wish("a"), NOW).await.unwrap();
        assert!(matches!(gateway.recognise(&secret, NOW), Recognised::Unknown));
        gateway.renew().await.unwrap();
        assert!(matches!(gateway.recognise(&secret, NOW), Recognised::Known(_)));
        command.revoke(&record.id, NOW).await.unwrap();
        gateway.renew().await.unwrap();
        assert!(matches!(gateway.recognise(&secret, NOW), Recognised::Revoked));
        for name in ["keys.json", "pepper"] {
            let text = fs::read_to_string(folder.path(name)).unwrap();
            assert!(!text.contains(secret.expose()), "{name} holds the secret");
        }
        let restarted = configured(&folder);
        restarted.renew().await.unwrap();
        assert!(matches!(restarted.recognise(&secret, NOW), Recognised::Revoked));
    }

    #[tokio::test]
    async fn keys_without_their_pepper_are_said_to_be_so_and_what_was_known_stays() {
        let folder = Folder::new();
        let keys = configured(&folder);
        let (secret, _) = keys.create(wish("a"), NOW).await.unwrap();
        fs::remove_file(folder.path("pepper")).unwrap();
        let restarted = configured(&folder);
        assert!(matches!(restarted.renew().await, Err(KeysError::NoPepper(_))));
        fs::write(folder.path("pepper"), "another pepper that is long enough".replace(' ', "-")).unwrap();
        assert!(matches!(restarted.renew().await, Err(KeysError::OtherPepper)));
        fs::write(folder.path("keys.json"), "{").unwrap();
        assert!(keys.renew().await.is_err());
        assert!(matches!(keys.recognise(&secret, NOW), Recognised::Known(_)));
    }

    #[tokio::test]
    async fn a_revoked_keys_limits_are_forgotten_and_strangers_leave_nothing() {
        let keys = Keys::in_memory();
        let limited = KeyWish { requests_per_minute: Some(5), ..wish("a") };
        let (secret, record) = keys.create(limited, NOW).await.unwrap();
        let Recognised::Known(key) = keys.recognise(&secret, NOW) else { panic!("known") };
        let pass = keys.enter(&key, Instant::now()).await.unwrap();
        assert_eq!(keys.standing(&key, Instant::now()).running, 1);
        keys.revoke(&record.id, NOW).await.unwrap();
        assert_eq!(keys.standing(&key, Instant::now()).running, 0);
        drop(pass);
        for number in 0..1000 {
            let guess = Secret::presented(&format!("sk-spillway-{number}")).unwrap();
            assert!(matches!(keys.recognise(&guess, NOW), Recognised::Unknown));
        }
    }

    #[test]
    fn groups_beyond_the_few_share_one_label() {
        let many = (0..MAX_GROUPS as u64 + 5)
            .map(|number| KeyRecord { group: format!("g{number:03}"), ..crate::keys::tests::record(number) })
            .collect();
        let directory = Directory::of(many, Stamp(0), None);
        let labels: BTreeSet<&str> = directory.keys.iter().map(|key| &*key.caller.group).collect();
        assert_eq!((labels.len(), labels.contains("other")), (MAX_GROUPS + 1, true));
    }
}
