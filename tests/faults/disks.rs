//! F26: a disk that is full, a database that is torn, a ledger that somebody else holds.

use super::{ask, told};
use crate::support::{Ask, Folder, Gateway, Setup, gateway::serve, poll::until};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

/// A file system of two megabytes, if this user may mount one.
struct TinyDisk(PathBuf, #[expect(dead_code, reason = "goes after the mount")] Folder);

impl TinyDisk {
    fn new() -> Option<Self> {
        let folder = Folder::new().expect("a temporary folder");
        let path = folder.path().join("tiny");
        fs::create_dir(&path).expect("the temporary folder takes folders");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&path).output();
        let mounted = mounted.is_ok_and(|mounted| mounted.status.success());
        mounted.then(|| Self(path, folder))
    }

    fn fill(&self) {
        let _ = fs::write(self.0.join("ballast"), vec![0; 2 << 20]);
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("ballast")).expect("the ballast goes");
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn is_up(gateway: &Gateway) -> bool {
    let status = gateway.client.get_json(&gateway.admin_url("/admin/status")).await.expect("the status answers");
    status["ledger"]["up"].as_bool().expect("it says whether it is up")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_while_the_disk_is_full_only_local_targets_serve_and_afterwards_all_do() {
    let Some(disk) = TinyDisk::new() else {
        println!("this user may not mount: the full disk was tested with a fault in the writer only");
        return;
    };
    let gateway = Setup::default().ledger_in(&disk.0).warm().await;
    assert_eq!(ask(&gateway, Ask::hard()).await.assert_complete().target(), "sim");
    disk.fill();
    // Whoever comes first finds out; from then on nothing paid starts.
    until("the full disk is noticed", Duration::from_secs(20), || async {
        ask(&gateway, Ask::hard()).await.assert_complete();
        (!is_up(&gateway).await).then_some(())
    })
    .await;
    let calls = gateway.cloud().calls().await;
    for asked in [Ask::hard(), Ask::hard().stream(), Ask::count()] {
        assert_eq!(ask(&gateway, asked).await.assert_complete().target(), "local");
    }
    let record = ask(&gateway, Ask::hard().model("ok")).await;
    assert_eq!(told(&record).0, 503, "{record:#?}");
    assert!(record.headers.contains_key("retry-after"), "{record:#?}");
    assert_eq!(gateway.metric("spillway_ledger_up").await, Some(0.0));
    assert_eq!(gateway.cloud().calls().await, calls, "no paid call without a ledger");
    disk.empty();
    until("the ledger is up again", Duration::from_secs(20), || async { is_up(&gateway).await.then_some(()) }).await;
    assert_eq!(ask(&gateway, Ask::hard().model("ok")).await.assert_complete().target(), "sim");
    assert_eq!(gateway.metric("spillway_ledger_up").await, Some(1.0));
    let url = gateway.admin_url("/admin/usage/attempts");
    let attempts = until("the database takes rows again", Duration::from_secs(20), || async {
        let page = gateway.client.get_json(&url).await?;
        let paid = page["attempts"].as_array()?.iter().filter(|row| row["target"] == "sim").count();
        (paid == gateway.cloud().calls().await).then_some(paid)
    });
    assert!(attempts.await > 1);
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_on_a_disk_that_is_full_from_the_start_local_targets_serve_until_it_has_room() {
    let Some(disk) = TinyDisk::new() else {
        println!("this user may not mount: not tested");
        return;
    };
    disk.fill();
    let gateway = Setup::default().ledger_in(&disk.0).warm().await;
    let status = gateway.client.get_json(&gateway.admin_url("/admin/status")).await.unwrap();
    assert_eq!(status["ledger"]["up"], false, "{status}");
    assert!(status["ledger"]["waits_because"].as_str().is_some_and(|why| !why.is_empty()), "{status}");
    for asked in [Ask::hard(), Ask::hard().stream()] {
        assert_eq!(ask(&gateway, asked).await.assert_complete().target(), "local");
    }
    assert_eq!(told(&ask(&gateway, Ask::hard().model("ok")).await).0, 503);
    assert_eq!(gateway.cloud().calls().await, 0, "no paid call without a ledger");
    assert_eq!(gateway.metric("spillway_ledger_up").await, Some(0.0));
    disk.empty();
    until("the ledger is up", Duration::from_secs(30), || async { is_up(&gateway).await.then_some(()) }).await;
    assert_eq!(ask(&gateway, Ask::hard().model("ok")).await.assert_complete().target(), "sim");
    let url = gateway.admin_url("/admin/usage/attempts");
    until("the database takes rows", Duration::from_secs(20), || async {
        let page = gateway.client.get_json(&url).await?;
        page["attempts"].as_array()?.iter().any(|row| row["target"] == "sim").then_some(())
    })
    .await;
    gateway.shutdown().await;
}

/// Runs `serve` on this configuration to its end; gives what it complained of.
fn failed_start(setup: &Setup) -> String {
    let folder = Folder::new().unwrap();
    let config = folder.write("spillway.toml", setup.text(None, None).as_bytes());
    let Output { status, stderr, stdout } = serve(&config, &setup.env()).output().expect("the gateway binary starts");
    let complaint = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{complaint}");
    assert!(stdout.is_empty() && !complaint.contains("panicked"), "{complaint}");
    complaint
}

fn on(folder: &Path) -> Setup {
    Setup::default().model("/nonexistent.gguf").without_cloud().ledger_in(folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_a_second_gateway_on_the_same_ledger_refuses_to_start() {
    let folder = Folder::new().unwrap();
    let first = on(folder.path()).start().await;
    let complaint = failed_start(&on(folder.path()));
    assert!(complaint.contains("another gateway holds the ledger's journal"), "{complaint}");
    first.shutdown().await;
    on(folder.path()).start().await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_a_torn_database_is_a_clear_start_up_error_that_names_the_file() {
    let folder = Folder::new().unwrap();
    on(folder.path()).start().await.shutdown().await;
    let path = folder.path().join("ledger.db");
    let whole = fs::read(&path).unwrap();
    for torn in [&whole[..whole.len() / 2], b"something else, whatever its name says".repeat(99).as_slice()] {
        fs::write(&path, torn).unwrap();
        let complaint = failed_start(&on(folder.path()));
        let clear = complaint.contains("ledger.db is damaged") && complaint.contains("Restore it from a backup");
        assert!(clear, "{complaint}");
        assert_eq!(fs::read(&path).unwrap(), torn, "it is left alone");
    }
    // Where no folder can be made, whoever runs this.
    let complaint = failed_start(&on(&path));
    assert!(complaint.contains("ledger.db/ledger.db.journal cannot be used"), "{complaint}");
}
