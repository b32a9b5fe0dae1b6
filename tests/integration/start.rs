//! Starts that cannot succeed, and starts that can in part: clear messages, exit codes, and a cloud that serves while the
//! local target says why it does not.

use crate::support::{
    Ask, Gateway, History, Outcome, Setup, Status,
    gateway::serve,
    setup::{Folder, model_path},
};
use std::{fs, process::Output, time::Duration};

/// The local target is down, says why, and the cloud serves.
async fn served_by_the_cloud(setup: Setup, cause: &str) -> Gateway {
    let gateway = setup.start().await;
    let history = History::default();
    let down = |status: &Status| {
        status.gpu().state == "down" && status.gpu().cause.as_ref().is_some_and(|told| told.contains(cause))
    };
    let status = gateway.until_status("it is down and says why", Duration::from_secs(10), down).await;
    assert_eq!((status.gpu().serving, status.gpu().engine_pid), (false, None), "{status:?}");
    for ask in [Ask::count(), Ask::count().stream(), Ask::hard()] {
        let record = gateway.client.ask(&gateway.api, ask).await;
        assert_eq!(record.assert_complete().target(), "sim");
        history.add(record);
    }
    assert!(gateway.client.get_json(&gateway.url("/ready")).await.is_some(), "the cloud makes it ready");
    history.assert_rules();
    let record = gateway.client.ask(&gateway.api, Ask::count().local_only()).await;
    let Outcome::Error { status, code, .. } = &record.outcome else { panic!("{record:#?}") };
    assert_eq!((*status, code.as_str()), (503, Some("local_only_unavailable")), "{record:#?}");
    assert!(record.headers.contains_key("retry-after"), "{record:#?}");
    gateway
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_without_its_model_file_the_gateway_runs_and_the_cloud_serves() {
    let gateway = served_by_the_cloud(Setup::default().model("/nonexistent/model.gguf"), "missing").await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_with_a_corrupt_model_file_the_gateway_runs_and_the_cloud_serves() {
    let folder = Folder::new().unwrap();
    let mut bytes = fs::read(model_path()).expect("the model can be read");
    bytes.truncate(1 << 20);
    for (name, bytes) in [("cut.gguf", &bytes[..]), ("text.gguf", b"this is no model"), ("empty.gguf", b"")] {
        let path = folder.write(name, bytes);
        let setup = Setup::default().model(path.to_str().expect("a plain path"));
        let gateway = served_by_the_cloud(setup, "model did not load").await;
        gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_file_that_appears_later_is_found() {
    let folder = Folder::new().unwrap();
    let path = folder.path().join("late.gguf");
    let extra = "[supervision.gpu]\nprobe_min_ms = 200\nprobe_max_ms = 400\n";
    let setup = Setup::default().model(path.to_str().expect("a plain path")).extra(extra);
    let gateway = served_by_the_cloud(setup, "missing").await;
    std::os::unix::fs::symlink(model_path(), &path).expect("a link");
    gateway.until_serving().await;
    let record = gateway.client.ask(&gateway.api, Ask::count()).await;
    assert_eq!(record.assert_complete().target(), "local");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_cloud_and_without_model_requests_are_refused_with_a_reason_and_it_is_not_ready() {
    let gateway = Setup::default().without_cloud().model("/nonexistent/model.gguf").start().await;
    let down = |status: &Status| status.gpu().state == "down";
    gateway.until_status("it is down", Duration::from_secs(10), down).await;
    let ready = gateway.client.raw().get(gateway.url("/ready")).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    for ask in [Ask::count(), Ask::hard().stream()] {
        let record = gateway.client.ask(&gateway.api, ask).await;
        let Outcome::Error { status, .. } = &record.outcome else { panic!("{record:#?}") };
        assert_eq!(*status, 503, "{record:#?}");
        assert!(record.headers.contains_key("retry-after") && record.faults.is_empty(), "{record:#?}");
    }
    gateway.shutdown().await;
}

/// Runs `serve` on this configuration to its end.
fn failed_start(text: &str) -> (Output, String) {
    let folder = Folder::new().unwrap();
    let config = folder.write("spillway.toml", text.as_bytes());
    let setup = Setup::default();
    let output = serve(&config, &setup.env()).output().expect("the gateway binary starts");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(output.stdout.is_empty(), "nothing is promised on stdout: {:?}", String::from_utf8_lossy(&output.stdout));
    assert!(!complaint.contains("panicked"), "{complaint}");
    (output, complaint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_occupied_port_is_one_clear_message_and_exit_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Setup { listen: address.clone(), ..Setup::default() }.without_cloud();
    let (_, complaint) = failed_start(&setup.text(None, None));
    let about: Vec<&str> = complaint.lines().filter(|line| line.contains(&address)).collect();
    assert_eq!(about.len(), 1, "{complaint}");
    assert!(about[0].contains("cannot listen") && about[0].contains("[server] listen"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_names_every_fault_and_exits_1() {
    let (_, complaint) = failed_start("[server]\nlisten = 7\nlisten_on = \"x\"\n");
    assert!(complaint.contains("server.listen") && complaint.contains("listen_on"), "{complaint}");
    let (_, complaint) = failed_start("[server\n");
    assert!(complaint.contains("TOML"), "{complaint}");
    let setup = Setup::default();
    let missing = serve(std::path::Path::new("/nonexistent/spillway.toml"), &setup.env()).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent/spillway.toml"));
}
