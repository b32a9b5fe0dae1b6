//! What a body of `/v1/embeddings` may be, and which model it means.

use super::*;
use serde_json::json;
use spillway_actors::config::{Sources, load};
use std::{io, path::PathBuf};

const CLOUD: &str = r#"
[[cloud]]
name = "c"
base_url = "https://c.example/v1"
simulated = true
[[cloud.models]]
name = "chat-model"
input_usd_per_mtok = 1
output_usd_per_mtok = 1
[[cloud.models]]
name = "vectors"
kind = "embedding"
input_usd_per_mtok = 0.02
"#;

fn config(file: &str) -> Config {
    let sources = Sources {
        file: Some((PathBuf::from("my.toml"), file.to_owned())),
        cache_dir: PathBuf::from("/cache"),
        ..Sources::default()
    };
    load(&sources, &|_| Err(io::Error::other("no file"))).unwrap().0
}

fn parsed(body: &Value, config: &Config) -> Result<ChatRequest, GatewayError> {
    embeddings(RequestId::from_bits(1), body.to_string().as_bytes(), &HeaderMap::new(), config)
}

#[test]
fn every_form_of_input_becomes_its_passages() {
    let config = config("");
    let text = |text: &str| Passage::Text(text.into());
    for (input, passages) in [
        (json!("a"), vec![text("a")]),
        (json!(["a", "b"]), vec![text("a"), text("b")]),
        (json!([1, 2]), vec![Passage::Tokens(vec![1, 2])]),
        (json!([[1], [2, 3]]), vec![Passage::Tokens(vec![1]), Passage::Tokens(vec![2, 3])]),
        (json!(["a", [7]]), vec![text("a"), Passage::Tokens(vec![7])]),
    ] {
        let request = parsed(&json!({"input": input}), &config).unwrap();
        assert_eq!(request.input, Input::Several(passages));
        assert_eq!(request.needs, Needs { embeddings: true, ..Needs::default() });
    }
    let request = parsed(&json!({"input": "a", "dimensions": 4, "encoding_format": "base64"}), &config).unwrap();
    assert!(request.needs.dimensions && request.body.contains_key("dimensions"));
}

#[test]
fn what_is_wrong_is_named() {
    let config = config("");
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": {}}), "input"),
        (json!({"input": ["a", ""]}), "input[1]"),
        (json!({"input": ["a", []]}), "input[1]"),
        (json!({"input": ["a", null]}), "input[1]"),
        (json!({"input": [[1, -2]]}), "input[0]"),
        (json!({"input": [1, "a"]}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": "a", "dimensions": 0}), "dimensions"),
        (json!({"input": "a", "user": 1}), "user"),
        (json!({"input": "a", "model": "nobody"}), "model"),
    ] {
        assert_eq!(parsed(&body, &config).unwrap_err().param.as_deref(), Some(param), "{body}");
    }
    assert!(parsed(&json!({"input": vec![5; 4000]}), &config).is_ok(), "one text of many tokens");
}

#[test]
fn without_a_name_it_is_always_the_same_model() {
    let named = |name: &str| Ok(ModelChoice::Named(ModelName::from(name)));
    let model = |config: &Config, body: &Value| parsed(body, config).map(|request| request.model);
    let both = config(CLOUD);
    for body in [json!({"input": "a"}), json!({"input": "a", "model": "auto"}), json!({"input": "a", "model": "local"})]
    {
        assert_eq!(model(&both, &body), named("smollm2-135m"));
    }
    assert_eq!(model(&both, &json!({"input": "a", "model": "vectors"})), named("vectors"));
    let cloud_only = config(&format!("local = []\n{CLOUD}"));
    assert_eq!(model(&cloud_only, &json!({"input": "a"})), named("vectors"));
    for body in [json!({"input": "a", "model": "local"}), json!({"input": "a", "local_only": true})] {
        assert_eq!(model(&cloud_only, &body).unwrap_err().kind, ErrorKind::ModelNotFound);
    }
    let off = config(&format!("[[local]]\nname = \"local\"\nembeddings = false\n{CLOUD}"));
    assert_eq!(model(&off, &json!({"input": "a"})), named("vectors"));
}
