//! `spillway models` against a file server of every manner: resumed, cut, lying, wrong.

use crate::support::{
    files::{Asked, FileServer, Manner, gguf},
    gateway::binary,
    setup::Folder,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{fs, path::PathBuf, process::Output};
use tokio::process::Command;

/// A cache of its own, and a configuration with one model, `test`, in it.
struct Place {
    folder: Folder,
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Place {
    /// `facts`: more lines of the model's table.
    fn new(source: &str, facts: &str) -> Self {
        let folder = Folder::new().unwrap();
        let text = format!("[models.test]\nsources = [\"{source}\"]\nfile = \"test.gguf\"\n{facts}");
        folder.write("spillway.toml", text.as_bytes());
        Self { folder }
    }

    /// With its size and checksum in the catalogue.
    fn known(source: &str, body: &[u8]) -> Self {
        Self::new(source, &format!("bytes = {}\nsha256 = \"{}\"\n", body.len(), digest(body)))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("cache/models/test.gguf")
    }

    fn part(&self) -> PathBuf {
        self.folder.path().join("cache/models/.test.gguf.part")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("models").args(arguments).env("SPILLWAY_CONFIG", self.folder.path().join("spillway.toml"));
        command.env("SPILLWAY_CACHE", self.folder.path().join("cache")).env_remove("HF_TOKEN").kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.expect("the gateway binary starts")
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

/// Asserts the exit code; gives what was said.
fn said(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "a pull prints no data");
    text
}

fn ranges(asked: &[Asked]) -> Vec<Option<&str>> {
    asked.iter().map(|asked| asked.range.as_deref()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_is_cut_goes_on_where_it_stopped() {
    let body = gguf(50_000);
    let server =
        FileServer::start(body.clone(), vec![Manner::CutAfter(70_000), Manner::CutAfter(50_000), Manner::Ranges]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    said(&place.run(&["pull", "test"]).await, 0);
    assert_eq!(fs::read(place.file()).unwrap(), body);
    let asked = server.asked();
    assert_eq!(ranges(&asked), [None, Some("bytes=70000-"), Some("bytes=120000-")]);
    assert!(!place.part().exists());
    said(&place.run(&["pull", "test"]).await, 0);
    assert_eq!(server.asked().len(), asked.len(), "what is here and right is not fetched again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_pull_goes_on_with_what_an_earlier_one_left() {
    let body = gguf(50_000);
    let server = FileServer::start(body.clone(), vec![Manner::Ranges]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    fs::create_dir_all(place.part().parent().unwrap()).unwrap();
    fs::write(place.part(), &body[..100_000]).unwrap();
    said(&place.run(&["pull", "test"]).await, 0);
    assert_eq!(ranges(&server.asked()), [Some("bytes=100000-")]);
    assert_eq!(fs::read(place.file()).unwrap(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_another_file_is_noticed_and_fetched_from_the_start() {
    let body = gguf(50_000);
    let server = FileServer::start(body.clone(), vec![Manner::Ranges]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    fs::create_dir_all(place.part().parent().unwrap()).unwrap();
    fs::write(place.part(), vec![7; 100_000]).unwrap();
    said(&place.run(&["pull", "test"]).await, 0);
    assert_eq!(ranges(&server.asked()), [Some("bytes=100000-"), None]);
    assert_eq!(fs::read(place.file()).unwrap(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_ranges_a_cut_transfer_begins_anew() {
    let body = gguf(50_000);
    let server = FileServer::start(body.clone(), vec![Manner::WholeCutAfter(90_000), Manner::Whole]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    said(&place.run(&["pull", "test"]).await, 0);
    assert_eq!(server.asked().len(), 2);
    assert_eq!(fs::read(place.file()).unwrap(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_promises_more_than_it_sends_is_given_up_and_what_came_is_kept() {
    let body = gguf(50_000);
    let server = FileServer::start(body.clone(), vec![Manner::CutAfter(60_000), Manner::CutAfter(0)]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    let text = said(&place.run(&["pull", "test"]).await, 1);
    assert!(text.contains("run it again to go on"), "{text}");
    assert!(!place.file().exists());
    assert_eq!(fs::read(place.part()).unwrap(), &body[..60_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_more_than_is_due_is_cut_off_and_nothing_is_kept() {
    let body = gguf(5_000);
    let server = FileServer::start(body.clone(), vec![Manner::Endless]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    let text = said(&place.run(&["pull", "test"]).await, 1);
    assert!(text.contains("more than the"), "{text}");
    assert!(!place.file().exists() && !place.part().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_size_or_checksum_than_the_catalogues_is_refused() {
    let (body, other) = (gguf(5_000), gguf(5_001));
    let server = FileServer::start(other, vec![Manner::Ranges]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    let text = said(&place.run(&["pull", "test"]).await, 1);
    assert!(text.contains("are expected"), "{text}");
    let mut flipped = body.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let server = FileServer::start(flipped, vec![Manner::Ranges]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    let text = said(&place.run(&["pull", "test"]).await, 1);
    assert!(text.contains("checksum is wrong") && text.contains("nothing was kept"), "{text}");
    assert!(!place.file().exists() && !place.part().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_model_is_not_kept_even_if_nothing_says_what_it_should_be() {
    let server = FileServer::start(b"<html>please log in</html>".to_vec(), vec![Manner::Whole]).await;
    let place = Place::new(&server.url("/test.gguf"), "");
    let text = said(&place.run(&["pull", "test"]).await, 1);
    assert!(text.contains("is no model"), "{text}");
    assert!(!place.file().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_tried_in_order_and_every_failure_is_told() {
    let body = gguf(5_000);
    let bad = FileServer::start(Vec::new(), vec![Manner::Status(404)]).await;
    let good = FileServer::start(body.clone(), vec![Manner::Ranges]).await;
    let sources = format!("{}\", \"{}", bad.url("/a.gguf"), good.url("/b.gguf"));
    let place = Place::known(&sources, &body);
    said(&place.run(&["pull", "test"]).await, 0);
    assert_eq!((bad.asked().len(), good.asked().len()), (1, 1));
    let place = Place::known(&bad.url("/a.gguf"), &body);
    let text = said(&place.run(&["pull", "test"]).await, 1);
    assert!(text.contains("does not have it (404)"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pulls_at_once_fetch_once() {
    let body = gguf(200_000);
    let server = FileServer::start(body.clone(), vec![Manner::Ranges]).await;
    let place = Place::known(&server.url("/test.gguf"), &body);
    let (one, two) = tokio::join!(place.run(&["pull", "test"]), place.run(&["pull", "test"]));
    said(&one, 0);
    said(&two, 0);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hubs_token_is_shown_to_the_hub_only_and_its_checksum_is_checked() {
    const SECRET: &str = "hf_canary_0123456789";
    let body = gguf(5_000);
    let store = FileServer::start(body.clone(), vec![Manner::Ranges]).await;
    let to = |sha256: &str| vec![Manner::Redirect { to: store.url("/blob"), sha256: Some(sha256.to_owned()) }];
    let hub = FileServer::start(Vec::new(), to(&digest(&body))).await;
    let place = Place::new("hf:owner/repo/x.gguf", "");
    let pull = |hub: &FileServer| {
        let mut command = place.command(&["pull", "test"]);
        command.env("HF_TOKEN", SECRET).env("HF_ENDPOINT", &hub.address);
        command
    };
    let output = pull(&hub).output().await.unwrap();
    let text = said(&output, 0);
    assert!(!text.contains(SECRET), "{text}");
    assert_eq!(hub.asked()[0].path, "/owner/repo/resolve/main/x.gguf");
    assert_eq!(hub.asked()[0].authorization.as_deref(), Some(format!("Bearer {SECRET}").as_str()));
    assert_eq!(store.asked()[0].authorization, None, "the token goes to the hub, not where it points");
    fs::remove_file(place.file()).unwrap();
    let lying = FileServer::start(Vec::new(), to(&"ab".repeat(32))).await;
    let text = said(&pull(&lying).output().await.unwrap(), 1);
    assert!(text.contains("checksum is wrong") && !text.contains(SECRET), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_that_leaves_this_machine_without_tls_is_not_followed() {
    let to = "http://192.0.2.1/x.gguf".to_owned();
    let server = FileServer::start(Vec::new(), vec![Manner::Redirect { to, sha256: None }]).await;
    let place = Place::new(&server.url("/test.gguf"), "");
    let text = said(&place.run(&["pull", "test"]).await, 1);
    assert!(text.contains("leaves https"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_listed_described_verified_and_removed() {
    let body = gguf(5_000);
    let server = FileServer::start(body.clone(), vec![Manner::Ranges]).await;
    let place = Place::new(&server.url("/test.gguf"), "title = \"A test\"\ncapabilities = [\"chat\"]\n");
    let line = |list: &Value| list.as_array().unwrap().iter().find(|line| line["name"] == "test").cloned().unwrap();
    assert_eq!(line(&place.json(&["ls", "--json"]).await)["present"], false);
    said(&place.run(&["pull", "test"]).await, 0);
    let listed = line(&place.json(&["ls", "--json"]).await);
    assert_eq!((&listed["present"], &listed["bytes"]), (&true.into(), &body.len().into()));
    assert_eq!(listed["sha256"], digest(&body), "noted when it was fetched");
    let shown = place.json(&["show", "test", "--json"]).await;
    assert_eq!((&shown["title"], &shown["file"]["architecture"]), (&"A test".into(), &"llama".into()));
    assert!(shown["memory"]["on_cpu"]["host"]["weights"].as_u64().is_some_and(|bytes| bytes >= 20_000), "{shown}");
    let verdicts = place.json(&["verify", "--json"]).await;
    assert_eq!((&verdicts[0]["ok"], &verdicts[0]["checksum_known"]), (&true.into(), &true.into()), "{verdicts}");
    let mut damaged = body.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(place.file(), damaged).unwrap();
    let output = place.run(&["verify", "test"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("another checksum"));
    said(&place.run(&["rm", "test"]).await, 0);
    assert!(!place.file().exists());
    said(&place.run(&["rm", "test"]).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_models_of_one_file_name_have_a_file_each() {
    let (alice, bob) = (gguf(4_000), gguf(6_000));
    let hers = FileServer::start(alice.clone(), vec![Manner::Ranges]).await;
    let his = FileServer::start(bob.clone(), vec![Manner::Ranges]).await;
    let folder = Folder::new().unwrap();
    let table = |name: &str, server: &FileServer, more: &str| {
        format!("[models.{name}]\nsources = [\"{}\"]\n{more}", server.url("/model.gguf"))
    };
    let known = format!("sha256 = \"{}\"\n", digest(&bob));
    folder.write("spillway.toml", format!("{}{}", table("alice", &hers, ""), table("bob", &his, &known)).as_bytes());
    let place = Place { folder };
    said(&place.run(&["pull", "alice"]).await, 0);
    let output = place.run(&["verify", "bob"]).await;
    assert_eq!(output.status.code(), Some(1), "what is here is not bob's: {output:?}");
    said(&place.run(&["pull", "bob"]).await, 0);
    let listed = place.json(&["ls", "--json"]).await;
    let file = |name: &str| {
        let line = listed.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap();
        fs::read(line["path"].as_str().unwrap()).unwrap()
    };
    assert!(file("alice") == alice && file("bob") == bob);
    assert_eq!(place.run(&["verify", "alice", "bob"]).await.status.code(), Some(0));
    // A file that an earlier version kept by its last name is taken over where its checksum is right, and only there.
    let models = place.folder.path().join("cache/models");
    said(&place.run(&["rm", "alice"]).await, 0);
    said(&place.run(&["rm", "bob"]).await, 0);
    let asked = (hers.asked().len(), his.asked().len());
    fs::write(models.join("model.gguf"), &bob).unwrap();
    let text = said(&place.run(&["pull", "alice", "bob"]).await, 0);
    assert!(text.contains("taken from"), "{text}");
    assert!(file("alice") == alice && file("bob") == bob);
    assert!(hers.asked().len() > asked.0 && his.asked().len() == asked.1, "bob's was here already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_nobody_knows_is_wrong_usage() {
    let place = Place::new("hf:owner/repo/x.gguf", "");
    for arguments in [&["pull", "nonsense"][..], &["rm", "nonsense"], &["show", "nonsense"], &["pull"]] {
        let output = place.run(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
