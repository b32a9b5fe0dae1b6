//! What each fault says and where it points.

use super::*;

#[test]
fn a_fault_shows_its_line_with_a_caret() {
    let faults = load(&sources("[server]\n\nmax_inflite = 3\nlisten = \"here\"\n"), &no_files).unwrap_err();
    let expected = "\
error: unknown key `max_inflite` in `server`, did you mean `max_inflight`?
 --> my.toml:3:1
  |
3 | max_inflite…
  | ^^^^^^^^^^^

error: `server.listen` must be an IP address with a port, such as 127.0.0.1:8080
 --> my.toml:4:10
  |
4 | listen = \"here\"
  |          ^^^^^^

2 faults in the configuration";
    assert_eq!(faults.to_string(), expected);
}

#[test]
fn a_variable_at_fault_is_named_and_its_unknown_value_is_not_shown() {
    let sources = with_env("", "SPILLWAY__CLOUD__0__API_KEY", "sk-secret");
    let shown = load(&sources, &no_files).unwrap_err().to_string();
    assert!(shown.contains("unknown key `api_key` in `cloud[0]`"), "{shown}");
    assert!(shown.contains("--> environment variable SPILLWAY__CLOUD__0__API_KEY\n"), "{shown}");
    assert!(!shown.contains("sk-secret"), "{shown}");
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let file = "\
sever = 1
[server]
max_inflight = 0
max_body_bytes = \"big\"
require_keys = true
keep_alive_ms = -1
[[local]]
parallel = 257
gpu = \"gpu0\"
engine = \"https\"
base_url = \"http://127.0.0.1:1\"
[[local]]
model = \"hf:owner/file.gguf\"
defaults.max_tokens = 4096
[[local]]
name = \"third\"
model = \"smollm\"
context_tokens = 100
max_request_tokens = 101
";
    let expected = [
        "1:1 unknown key `sever`, did you mean `server`?",
        "3:16 `server.max_inflight` must be from 1 to 100000",
        "4:18 `server.max_body_bytes` must be an integer, not a string",
        "6:17 `server.keep_alive_ms` must be from 0 to 315360000000",
        "8:12 `local[0].parallel` must be from 1 to 256",
        "9:7 `local[0].gpu` must be auto, cpu, or the index or UUID of a device",
        "10:10 `local[0].engine` must be one of llama, http, did you mean `http`?",
        "11:12 `local[0].base_url` is for engine = \"http\"; our own engine has no address",
        "13:9 `local[1].model` must be written hf:OWNER/REPO/FILE.gguf or hf:OWNER/REPO@REVISION/FILE.gguf",
        "14:23 `local[1].defaults.max_tokens` is above max_output_tokens = 2048",
        "17:9 `local[2].model` must be the path of a .gguf file, hf:OWNER/REPO/FILE.gguf, or one of smollm2-135m",
        "19:22 `local[2].max_request_tokens` is larger than the whole pool (context_tokens = 100)",
    ];
    let found = faults(&sources(file));
    let in_file: Vec<&String> = found.iter().filter(|fault| !fault.contains("another target")).collect();
    assert_eq!(in_file, expected.iter().collect::<Vec<_>>());
    assert_eq!(found.len() - in_file.len(), 1, "two entries without a name are both called local: {found:?}");
}

#[test]
fn listeners_beyond_loopback_need_what_protects_them() {
    let found = faults(&sources("[server]\nlisten = '0.0.0.0:8080'\nadmin_listen = '[::]:8081'"));
    assert_eq!(
        found,
        [
            "2:10 `server.listen` is not a loopback address: whoever reaches it could spend your money, so that needs \
             require_keys = true (make a key with `spillway keys create`); or bind to 127.0.0.1:8080",
            "3:16 `server.admin_listen` is not a loopback address: that needs admin_token_file",
        ]
    );
    let found = faults(&sources("server.listen = '127.0.0.1:8081'"));
    assert!(found[0].contains("`server.admin_listen` is the same address as `server.listen`"), "{found:?}");
}

#[test]
fn keys_open_the_api_to_others_and_their_pepper_is_a_real_secret() {
    let (config, _) =
        loaded(&sources("[server]\nlisten = '0.0.0.0:8080'\nrequire_keys = true\n[keys]\nfile = 'k.json'"));
    assert!(config.server.require_keys);
    assert!(matches!(&config.keys.pepper, PepperSource::File(path) if path.as_os_str() == "k.json.pepper"));
    let peppered = |pepper: &str| with_env("", "SPILLWAY_KEY_PEPPER", pepper);
    let (config, _) = loaded(&peppered(&"p".repeat(32)));
    assert!(matches!(&config.keys.pepper, PepperSource::Text(_)));
    assert!(!format!("{config:?}").contains("pppp"));
    let found = load(&peppered("too-short-to-be-a-secret"), &no_files).unwrap_err().to_string();
    assert!(found.contains("at least 32 visible ASCII characters") && !found.contains("too-short"), "{found}");
}

#[test]
fn an_unreadable_token_file_is_a_fault() {
    let found = faults(&sources("server.admin_token_file = 'gone'"));
    assert_eq!(found, ["1:27 `server.admin_token_file` cannot be read: no gone"]);
}

#[test]
fn rules_and_aliases_of_the_user_must_name_what_is_configured() {
    let file = "\
[router.rules.complex]
prefer = [\"deepseek-v32\", \"auto\"]
[router.rules.extreme]
[router.aliases]
a = \"gpt-5\"
\"gpt-4.1\" = \"auto\"
b = 1
[ledger]
baseline_model = \"gpt-41\"
";
    let expected = [
        "2:11 `router.rules.complex.prefer` names `deepseek-v32`, which is not configured, did you mean `deepseek-v3.2`?",
        "2:27 `router.rules.complex.prefer` names `auto`, but a rule must name what it means",
        "3:15 unknown key `extreme` in `router.rules`",
        "5:5 `router.aliases.a` names `gpt-5`, which is not configured",
        "6:1 the alias `gpt-4.1` is the name of something else already",
        "7:5 `router.aliases.b` must be a string, not an integer",
        "9:18 `ledger.baseline_model` names `gpt-41`, which is not configured, did you mean `gpt-4.1`?",
    ];
    assert_eq!(faults(&sources(file)), expected);
}

#[test]
fn a_provider_speaks_openais_wire_format_unless_it_says_otherwise() {
    let cloud = |wire: &str| {
        sources(&format!(
            "[[cloud]]\nname = \"x\"\nbase_url = \"https://x.test/v1\"\napi_keys_env = [\"K\"]\n{wire}\n[[cloud.models]]\n\
             name = \"m\"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n[router.rules]\n\
             complex.prefer = [\"m\"]\ncomplex.fallback = []\npremium.prefer = [\"m\"]\npremium.fallback = []\n\
             trivial.fallback = []\nmoderate.fallback = []\n"
        ))
    };
    assert_eq!(loaded(&cloud("")).0.clouds[0].wire, Wire::OpenAi);
    assert_eq!(loaded(&cloud("wire = \"anthropic\"")).0.clouds[0].wire, Wire::Anthropic);
    let expected = ["5:8 `cloud[0].wire` must be one of openai, anthropic, did you mean `anthropic`?"];
    assert_eq!(faults(&cloud("wire = \"antropic\"")), expected);
}

#[test]
fn providers_are_checked_without_showing_secrets() {
    let file = "\
[[cloud]]
name = \"local\"
base_url = \"https://user:hunter2@x.test/v1\"
api_keys_env = [\"BAD\"]
[[cloud.models]]
name = \"m\"
input_usd_per_mtok = -1
prefill_style = \"assistent\"
[[cloud.models]]
name = \"smollm2-135m\"
input_usd_per_mtok = 0.1
output_usd_per_mtok = 1e3
[[cloud]]
name = \"two\"
base_url = \"ftp://x.test\"
models = []
";
    let sources = with_env(file, "BAD", "two words");
    let expected = [
        "2:8 a provider cannot be called `local`",
        "3:12 `cloud[0].base_url` must hold no user or password: keys come from api_keys_env",
        "4:17 `cloud[0].api_keys_env` finds a key in BAD that no HTTP header can carry: it must be visible ASCII \
         without spaces",
        "5:1 `cloud[0].models[0].output_usd_per_mtok` is missing",
        "7:22 `cloud[0].models[0].input_usd_per_mtok` must not be negative",
        "8:17 `cloud[0].models[0].prefill_style` must be one of none, assistant, deepseek_prefix, did you mean \
         `assistant`?",
        "10:8 the model name `smollm2-135m` is the name of another model or target already",
        "12:23 `cloud[0].models[1].output_usd_per_mtok` must be written as a plain decimal number, such as 0.42",
        "13:1 `cloud[1].api_keys_env` or `api_key_file` is needed",
        "15:12 `cloud[1].base_url` must be an address such as https://api.example.com/v1",
        "16:10 `cloud[1].models` must hold at least one model",
    ];
    assert_eq!(faults(&sources), expected);
    let shown = load(&sources, &no_files).unwrap_err().to_string();
    assert!(!shown.contains("hunter2") && !shown.contains("two words"), "{shown}");
}

#[test]
fn names_are_unique_across_targets_and_models() {
    let model = "input_usd_per_mtok=1\noutput_usd_per_mtok=1\n";
    let cloud = |name: &str| {
        format!(
            "[[cloud]]\nname='{name}'\nbase_url='https://x.test'\napi_keys_env=['K']\n[[cloud.models]]\nname='m'\n{model}"
        )
    };
    let found = faults(&sources(&format!("{}{}", cloud("local"), cloud("x"))));
    assert!(found[0].ends_with("a provider cannot be called `local`"), "{found:?}");
    let found = faults(&sources(&format!("[[local]]\nname='x'\n{}{}", cloud("x"), cloud("y"))));
    assert!(found[0].ends_with("the name `x` is the name of another target already"), "{found:?}");
    assert!(found[1].ends_with("the model name `m` is the name of another model or target already"), "{found:?}");
}

#[test]
fn text_that_is_not_toml_is_reported_alone() {
    let found = faults(&sources("[server]\nlisten = \nmax_inflight = 0\n"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("2:") && found[0].contains("not TOML"), "{found:?}");
}

#[test]
fn a_variable_that_fits_nowhere_says_why() {
    for (name, why) in [
        ("SPILLWAY__LOCAL__1__GPU", "`local` cannot take this: it has 1 entries, so there is no number 1"),
        ("SPILLWAY__LOCAL__GPU", "`local` cannot take this: it is a list: a number from 0 must follow, not `gpu`"),
        ("SPILLWAY__SERVER__LISTEN__X", "`server.listen` cannot take this: it is a single value, not a table or list"),
        ("SPILLWAY_SERVER__LISTEN", "this sets nothing: two underscores belong in front, SPILLWAY__SERVER__LISTEN"),
        ("SPILLWAY__SERVER____X", "the name has an empty part: it must be SPILLWAY__SECTION__KEY"),
    ] {
        assert_eq!(faults(&with_env("", name, "x")), [format!("1:1 {why}")], "{name}");
    }
}

#[test]
fn nothing_that_can_serve_is_a_fault() {
    let mut sources = sources("local = []");
    sources.env.clear();
    let expected = "nothing can serve: there is no [[local]] and no [[cloud]] with a key; not set: HOLYSHEEP_API_KEY";
    assert_eq!(faults(&sources), [format!("0:0 {expected}")]);
    // A command that makes keys serves nothing.
    sources.need_not_serve = true;
    assert!(load(&sources, &|_| Err(io::ErrorKind::NotFound.into())).is_ok());
}

#[test]
fn a_table_where_a_list_belongs_is_explained() {
    let found = faults(&sources("[local]\ngpu = 'cpu'"));
    assert_eq!(found, ["1:1 `local` must be a list of tables, written [[local]]"]);
}

#[test]
fn deep_nesting_is_refused() {
    let found = faults(&sources(&format!("a{} = 1", ".a".repeat(50))));
    assert!(found.iter().any(|fault| fault.contains("nested deeper than 32 levels")), "{found:?}");
}

#[test]
fn health_bands_must_not_be_upside_down_and_a_health_gpu_must_be_a_device() {
    let found = faults(&sources(
        "[[local]]\nname = \"local\"\nhealth_gpu = \"fast\"\n\
         [health]\nheat_enter_celsius = 70\nheat_leave_celsius = 80\nmemory_enter_percent = 101\nbad_gpu_retry_ms = 0\n",
    ));
    let all = found.join("\n");
    assert!(all.contains("`health.heat_leave_celsius` is above heat_enter_celsius = 70"), "{all}");
    assert!(all.contains("`health.memory_enter_percent` must be from 1 to 100"), "{all}");
    assert!(all.contains("`health.bad_gpu_retry_ms` must be from 1000"), "{all}");
    assert!(all.contains("health_gpu` must be empty, or the index or UUID of a device"), "{all}");
    assert_eq!(found.len(), 4, "{all}");
}

#[test]
fn a_local_server_needs_an_address_and_a_name_for_its_model() {
    let file = "\
[[local]]
name = \"vllm\"
engine = \"http\"
[[local]]
name = \"other\"
engine = \"http\"
model = \"auto\"
base_url = \"http://user:word@10.0.0.7:8000/v1\"
abilities = [\"tools\", \"dance\"]
";
    let expected = [
        "1:1 `local[0].model` must be named: clients ask for the server's model by it",
        "7:9 `local[1].model` cannot be `auto`, which is reserved",
        "8:12 `local[1].base_url` must hold no user or password: keys come from api_keys_env",
        "9:23 `local[1].abilities` knows no `dance`: tools, response_format, images, audio, logprobs, logit_bias, n, \
         embeddings, dimensions",
    ];
    let found = faults(&sources(file));
    for fault in expected {
        assert!(found.iter().any(|found| found == fault), "{fault} in {found:#?}");
    }
    assert!(found.iter().any(|fault| fault.contains("`local[0].base_url` must be an address")), "{found:#?}");
}

#[test]
fn a_ledgers_address_is_checked_and_never_shown() {
    for (url, why) in [
        ("mysql://u:hunter2@h/d", "must start with memory:, sqlite: or postgres:"),
        ("postgres:u:hunter2@h/d", "must be an address such as postgres://user:password@host/database"),
        ("sqlite:", "must name a file, such as sqlite:spillway.db, without parameters"),
        ("sqlite::memory:", "must name a file, such as sqlite:spillway.db, without parameters"),
        ("sqlite:x.db?mode=ro", "must name a file, such as sqlite:spillway.db, without parameters"),
    ] {
        let shown = load(&sources(&format!("ledger.url = '{url}'")), &no_files).unwrap_err().to_string();
        assert!(shown.contains(why) && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn budgets_and_currencies_say_what_they_take() {
    let file = "[ledger]\nbudget_usd_per_day = 'none'\nbudget_usd_per_month = -1\n[currency]\ncode = 'yuan!'\n";
    let expected = [
        "2:22 `ledger.budget_usd_per_day` must be a number, in USD, or \"unlimited\"",
        "3:24 `ledger.budget_usd_per_month` must not be negative",
        "5:8 `currency.code` must be a currency's code, such as CNY",
    ];
    assert_eq!(faults(&sources(file)), expected);
}

#[test]
fn certificates_that_cannot_be_served_and_pages_that_are_none_are_told() {
    let found = faults(&sources("server.tls_key_file = 'key.pem'"));
    assert!(found[0].contains("`server.tls_cert_file` is needed beside tls_key_file"), "{found:?}");
    let found = faults(&sources("server.tls_cert_file = 'gone'\nserver.tls_key_file = 'gone'"));
    assert!(found.len() == 2 && found.iter().all(|fault| fault.contains("cannot be read")), "{found:?}");
    let read = |_: &std::path::Path| Ok("no PEM, but a secret".to_owned());
    let shown = load(&sources("server.tls_cert_file = 'c'\nserver.tls_key_file = 'k'"), &read).unwrap_err().to_string();
    assert!(
        shown.contains("no certificate") && shown.contains("no private key") && !shown.contains("secret"),
        "{shown}"
    );
    let found = faults(&sources("server.cors_origins = ['*', 'https://good.example', 'https://bad.example/']"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("only with require_keys") && found[1].contains("must hold origins"), "{found:?}");
}

#[test]
fn two_models_are_not_kept_in_one_file() {
    let model = |name: &str, source: &str, more: &str| {
        format!("[models.{name}]\nsources = [\"https://example.org/{source}/model.gguf\"]\n{more}\n")
    };
    let faults = |text: String| load(&sources(&text), &no_files).err().map(|faults| faults.to_string());
    let same = "file = \"model.gguf\"";
    assert_eq!(faults(model("alice", "alice", "") + &model("bob", "bob", "")), None, "each has its own place");
    assert_eq!(faults(model("alice", "alice", same) + &model("again", "alice", same)), None, "two names of one model");
    let shown = faults(model("alice", "alice", same) + &model("bob", "bob", same)).unwrap();
    assert!(shown.contains("the file of `alice` is that of `bob`, another model"), "{shown}");
    let built_in = "file = \"SmolLM2-135M-Instruct.Q4_1.gguf\"";
    let shown = faults(model("mine", "mine", built_in)).unwrap();
    assert!(shown.contains("the file of `mine` is that of `smollm2-135m`"), "{shown}");
}
