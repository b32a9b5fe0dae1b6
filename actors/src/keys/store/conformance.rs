//! What every key store must do. A new implementation adds one line to `stores`.

use super::*;
use crate::keys::tests::{Folder, record};
use std::sync::Arc;

/// Each store, as two handles on the same content.
fn stores(folder: &Folder) -> Vec<[Arc<dyn KeyStore>; 2]> {
    let memory = MemoryStore::default();
    let file = |_| -> Arc<dyn KeyStore> { Arc::new(FileStore::new(folder.path("keys.json"))) };
    vec![[Arc::new(memory.clone()), Arc::new(memory)], [0, 1].map(file)]
}

async fn keys(store: &Arc<dyn KeyStore>) -> Vec<KeyRecord> {
    store.load().await.unwrap().keys
}

#[tokio::test]
async fn what_one_handle_adds_every_handle_finds_in_order() {
    let folder = Folder::new();
    for [one, other] in stores(&folder) {
        assert_eq!(keys(&other).await, []);
        for number in [3, 1, 2] {
            one.insert(record(number)).await.unwrap();
        }
        assert_eq!(keys(&other).await, [record(3), record(1), record(2)], "{one:?}");
    }
}

#[tokio::test]
async fn neither_an_id_nor_a_secret_is_taken_twice() {
    let folder = Folder::new();
    for [store, _] in stores(&folder) {
        store.insert(record(1)).await.unwrap();
        let same_id = KeyRecord { digest: record(2).digest, ..record(1) };
        let same_secret = KeyRecord { digest: record(1).digest, ..record(2) };
        for taken in [same_id, same_secret] {
            assert!(matches!(store.insert(taken).await, Err(StoreError::Taken)), "{store:?}");
        }
        assert_eq!(keys(&store).await.len(), 1);
    }
}

#[tokio::test]
async fn revoking_is_idempotent_the_first_time_counts_and_the_unknown_are_none() {
    let folder = Folder::new();
    for [one, other] in stores(&folder) {
        one.insert(record(1)).await.unwrap();
        for (handle, at) in [(&one, 50), (&other, 60), (&one, 70)] {
            let key = handle.revoke(record(1).id, at).await.unwrap().unwrap();
            assert_eq!(key.revoked_at, Some(50), "{one:?}");
        }
        assert_eq!(keys(&other).await[0].revoked_at, Some(50));
        assert!(one.revoke("key_none".into(), 80).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn the_stamp_changes_with_the_content_and_only_then() {
    let folder = Folder::new();
    for [one, other] in stores(&folder) {
        let mut seen = vec![other.stamp().await.unwrap()];
        for number in 0..3 {
            one.insert(record(number)).await.unwrap();
            seen.push(other.stamp().await.unwrap());
        }
        one.revoke(record(1).id, 9).await.unwrap();
        seen.push(other.stamp().await.unwrap());
        assert!(seen.iter().zip(&seen[1..]).all(|(before, after)| before != after), "{one:?}: {seen:?}");
        let last = *seen.last().unwrap();
        one.revoke(record(1).id, 10).await.unwrap();
        let _ = one.insert(record(1)).await;
        assert_eq!((one.stamp().await.unwrap(), other.load().await.unwrap().stamp), (last, last), "{one:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_at_the_same_time_lose_nothing() {
    let folder = Folder::new();
    for handles in stores(&folder) {
        let mut writing = tokio::task::JoinSet::new();
        for number in 0..40 {
            let store = Arc::clone(&handles[number as usize % 2]);
            writing.spawn(async move {
                store.insert(record(number)).await.unwrap();
                if number % 4 == 0 {
                    store.revoke(record(number).id, 5).await.unwrap();
                }
            });
        }
        writing.join_all().await;
        let found = keys(&handles[0]).await;
        assert_eq!((found.len(), found.iter().filter(|key| key.revoked_at.is_some()).count()), (40, 10));
    }
}

#[tokio::test]
async fn groups_are_few() {
    let folder = Folder::new();
    for [store, _] in stores(&folder) {
        for number in 0..MAX_GROUPS as u64 {
            store.insert(KeyRecord { group: format!("g{number}"), ..record(number) }).await.unwrap();
        }
        let one_more = KeyRecord { group: "more".into(), ..record(999) };
        assert!(matches!(store.insert(one_more).await, Err(StoreError::TooManyGroups)), "{store:?}");
        store.insert(KeyRecord { group: "g0".into(), ..record(999) }).await.unwrap();
    }
}

#[test]
fn a_full_store_forgets_the_key_revoked_longest_ago_and_never_a_good_one() {
    let mut keys: Vec<KeyRecord> = (0..MAX_KEYS as u64).map(record).collect();
    assert!(matches!(add(&mut keys, record(u64::MAX)), Err(StoreError::Full)));
    keys[7].revoked_at = Some(20);
    keys[9].revoked_at = Some(10);
    add(&mut keys, record(u64::MAX)).unwrap();
    assert_eq!((keys.len(), keys.iter().any(|key| key.id == record(9).id)), (MAX_KEYS, false));
    assert_eq!(keys.last(), Some(&record(u64::MAX)));
}
