//! The defaults, and how file, environment, flags and a demo change them.

use super::*;
use crate::{
    classify::Cuts,
    domain::{Complexity, NanoUsd},
};
use secrecy::ExposeSecret;

const NONE: [&str; 0] = [];

fn model(name: &str) -> RuleTarget {
    RuleTarget::Model(ModelName::from(name))
}

#[test]
fn the_documented_file_and_the_types_have_the_same_defaults() {
    let (config, warnings) = loaded(&sources(""));
    assert_eq!(warnings, NONE);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.admin_listen.to_string(), "127.0.0.1:8081");
    assert_eq!((config.server.max_inflight, config.server.max_body_bytes), (512, 10_485_760));
    assert_eq!(config.server.keep_alive, Some(Duration::from_secs(15)));
    assert_eq!(config.supervision.gpu, EngineRestart::default());
    assert_eq!(config.supervision.actors, ActorRestart::default());
    assert_eq!(config.ledger.baseline, Some(ModelName::from("gpt-4.1")));
    assert!(!config.chaos_enabled);
    let local = &config.locals[0];
    assert_eq!(local.model_path, PathBuf::from("/cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    assert_eq!(
        (local.gpu.clone(), local.gpu_layers, local.threads, local.max_request_tokens),
        (None, None, None, None)
    );
    assert_eq!(local.defaults.sampling, Sampling::default());
    assert_eq!(local.defaults.completion_stop, LocalDefaults::default().completion_stop);
    assert_eq!((local.defaults.max_tokens, local.defaults.max_output_tokens), (1024, 2048));
}

#[test]
fn the_default_provider_has_the_published_prices() {
    let (config, _) = loaded(&sources(""));
    let cloud = &config.clouds[0];
    assert_eq!((cloud.name.as_str(), cloud.base_url.as_str()), ("holysheep", "https://api.holysheep.ai/v1"));
    assert_eq!(cloud.keys[0].expose_secret(), "secret-key");
    assert!(!format!("{config:?}").contains("secret-key"));
    let timeouts = CloudTimeouts::default();
    assert_eq!((cloud.timeouts.connect, cloud.timeouts.idle), (timeouts.connect, timeouts.idle));
    let price = |model: &CloudModel| {
        [model.price.input_per_mtok, model.price.cached_per_mtok, model.price.output_per_mtok].map(NanoUsd::get)
    };
    let prices: Vec<_> = cloud.models.iter().map(|model| (model.name.as_str(), price(model))).collect();
    let [mega, flash, gpt, sonnet] =
        [[420_000_000, 42_000_000, 420_000_000], [2_500_000_000; 3], [8_000_000_000; 3], [15_000_000_000; 3]];
    let expected =
        [("deepseek-v3.2", mega), ("gemini-2.5-flash", flash), ("gpt-4.1", gpt), ("claude-sonnet-4.5", sonnet)];
    assert_eq!(prices, expected);
}

#[test]
fn the_default_rules_are_the_published_ones() {
    let (config, _) = loaded(&sources(""));
    let rule = |complexity| config.router.rule(complexity);
    assert_eq!(rule(Complexity::Trivial).prefer, [RuleTarget::AnyLocal]);
    assert_eq!(rule(Complexity::Trivial).fallback, [model("deepseek-v3.2")]);
    assert_eq!(rule(Complexity::Premium).prefer, [model("gpt-4.1")]);
    let limits = Complexity::ALL.map(|complexity| rule(complexity).max_latency.as_millis());
    assert_eq!(limits, [100, 500, 2000, 5000]);
    assert!(rule(Complexity::Trivial).max_latency_is_default);
}

#[test]
fn a_copy_of_the_default_file_means_the_same_as_no_file() {
    for gpu in ["auto", "cpu"] {
        let (copy, _) = loaded(&with_env(BUILT_IN, "SPILLWAY__LOCAL__0__GPU", gpu));
        let (none, _) = loaded(&with_env("", "SPILLWAY__LOCAL__0__GPU", gpu));
        assert_eq!(format!("{copy:?}"), format!("{none:?}"));
    }
}

#[test]
fn on_the_cpu_the_built_in_bounds_are_wider_and_stated_ones_hold() {
    let (config, _) = loaded(&with_env("", "SPILLWAY__LOCAL__0__GPU", "cpu"));
    let limits = Complexity::ALL.map(|complexity| config.router.rule(complexity).max_latency.as_millis());
    assert_eq!(limits, [2000, 5000, 2000, 5000]);
    let (config, _) = loaded(&sources("local = [{ gpu = 'cpu' }]\nrouter.rules.trivial.max_latency_ms = 100"));
    let trivial = config.router.rule(Complexity::Trivial);
    assert_eq!((trivial.max_latency.as_millis(), trivial.max_latency_cpu.as_millis()), (100, 100));
    assert!(!trivial.max_latency_is_default);
}

#[test]
fn later_layers_win() {
    let file = "[server]\nmax_inflight = 1\ndrain_timeout_ms = 1\nkeep_alive_ms = 0";
    let mut sources = with_env(file, "SPILLWAY__SERVER__MAX_INFLIGHT", "2");
    sources.overrides.push(("server.max_inflight".into(), toml::Value::Integer(3)));
    let (config, _) = loaded(&sources);
    assert_eq!(config.server.max_inflight, 3);
    assert_eq!(config.server.drain_timeout, Duration::from_millis(1));
    assert_eq!(config.server.keep_alive, None);
    assert_eq!(config.server.request_timeout, Duration::from_secs(120), "what no layer sets stays built in");
}

#[test]
fn the_environment_reaches_into_lists_and_needs_no_quotes() {
    let mut sources = with_env("[[local]]\nname = 'card'", "SPILLWAY__LOCAL__0__GPU", "1");
    for (name, value) in [
        ("SPILLWAY__LOCAL__0__NAME", "7"),
        ("SPILLWAY__LOCAL__0__DEFAULTS__TEMPERATURE", "0"),
        ("SPILLWAY__SERVER__LISTEN", "127.0.0.1:0"),
        ("SPILLWAY__CLOUD__0__API_KEYS_ENV", r#"["A", "B"]"#),
        ("B", " key-b \n"),
        ("SPILLWAY_CACHE", "not configuration"),
    ] {
        sources.env.push((name.into(), value.into()));
    }
    let (config, _) = loaded(&sources);
    let local = &config.locals[0];
    assert_eq!((local.name.as_str(), local.gpu.as_deref()), ("7", Some("1")));
    assert_eq!((local.defaults.sampling.temperature, local.defaults.max_tokens), (0.0, 1024));
    assert_eq!(config.server.listen.port(), 0);
    assert_eq!(config.clouds[0].keys[0].expose_secret(), "key-b");
}

#[test]
fn a_whole_list_from_the_environment_is_filled_up_too() {
    let mut sources = with_env("", "SPILLWAY__LOCAL__1__PARALLEL", "3");
    sources.env.push(("SPILLWAY__LOCAL".into(), "[{name='a'},{name='b'}]".into()));
    let (config, _) = loaded(&sources);
    let seen: Vec<_> = config.locals.iter().map(|local| (local.name.as_str(), local.parallel)).collect();
    assert_eq!(seen, [("a", 8), ("b", 3)]);
}

#[test]
fn without_a_key_everything_is_served_locally_and_says_so() {
    let mut sources = sources("");
    sources.env.clear();
    let (config, warnings) = loaded(&sources);
    assert!(!config.clouds[0].is_usable());
    assert_eq!(warnings, ["HOLYSHEEP_API_KEY is not set: serving every tier locally"]);
}

#[test]
fn built_in_rules_drop_unconfigured_models_with_one_warning() {
    let (config, warnings) = loaded(&sources("cloud = []\nledger.url = 'memory:'"));
    let left_out = "deepseek-v3.2, gemini-2.5-flash, claude-sonnet-4.5, gpt-4.1";
    assert_eq!(
        warnings,
        [format!("the built-in rules name models that are not configured; they are left out: {left_out}")]
    );
    assert!(config.router.rule(Complexity::Premium).prefer.is_empty());
    assert_eq!(config.ledger.baseline, None);
}

#[test]
fn no_local_means_cloud_only() {
    let (config, warnings) = loaded(&sources("local = []"));
    assert!(config.locals.is_empty());
    assert_eq!(warnings, NONE);
    assert!(config.router.rule(Complexity::Trivial).prefer.is_empty());
}

#[test]
fn a_demo_simulates_the_configured_models_without_a_key() {
    let demo = Some(DemoCloud { base_url: "http://127.0.0.1:9/v1/".into() });
    for file in ["", "cloud = []"] {
        let (config, warnings) = loaded(&Sources { env: Vec::new(), demo: demo.clone(), ..sources(file) });
        assert_eq!(warnings, NONE);
        let [cloud] = config.clouds.as_slice() else { panic!("one provider") };
        assert_eq!((cloud.name.as_str(), cloud.base_url.as_str()), ("simulated", "http://127.0.0.1:9/v1"));
        assert!(cloud.simulated && cloud.is_usable());
        let models: Vec<_> = cloud.models.iter().map(|model| (model.name.as_str(), model.upstream.as_str())).collect();
        let names = ["deepseek-v3.2", "gemini-2.5-flash", "gpt-4.1", "claude-sonnet-4.5"];
        assert_eq!(models, names.map(|name| (name, "ok")));
    }
}

#[test]
fn a_gguf_path_names_its_model_and_rules_may_use_that_name() {
    let file = "[[local]]\nname='a'\nmodel='weights/My Model.gguf'\n[[local]]\nname='b'\nmodel='weights/My Model.gguf'\n\
                [router.rules.trivial]\nprefer=['My-Model']\n[router.aliases]\n'gpt-4o'='auto'";
    let (config, _) = loaded(&sources(file));
    assert_eq!(config.locals[0].model.as_str(), "My-Model");
    assert_eq!(config.locals[0].model_path, PathBuf::from("weights/My Model.gguf"));
    let targets = ["a", "b"].map(|name| RuleTarget::Local(TargetName::from(name)));
    assert_eq!(config.router.rule(Complexity::Trivial).prefer, targets);
    assert_eq!(config.router.aliases["gpt-4o"], "auto");
}

#[test]
fn keys_and_the_admin_token_come_from_files() {
    let file = "server.admin_listen='0.0.0.0:8081'\nserver.admin_token_file='token'\n[[cloud]]\nname='x'\n\
                base_url='https://x.test/v1'\napi_key_file='keys'\n[[cloud.models]]\nname='m'\n\
                input_usd_per_mtok=1\noutput_usd_per_mtok=2\nas_of=2026-01-02";
    let read = |path: &Path| Ok(if path == Path::new("keys") { "# mine\nk1\n\n k2 \n" } else { "t0ken\n" }.to_owned());
    let (config, _) = load(&sources(file), &read).unwrap();
    let cloud = &config.clouds[0];
    assert_eq!(cloud.keys.iter().map(|key| key.expose_secret()).collect::<Vec<_>>(), ["k1", "k2"]);
    assert_eq!(config.server.admin_token.as_ref().map(|token| token.expose_secret()), Some("t0ken"));
    assert_eq!((cloud.models[0].upstream.as_str(), cloud.models[0].price_as_of.as_str()), ("m", "2026-01-02"));
    assert_eq!(cloud.actors, 4, "what an entry leaves out is built in");
    assert!(cloud.key_sources.is_empty(), "but never another provider's key");
}

#[test]
fn the_classifier_is_learned_unless_keywords_are_asked_for() {
    let kind = |text: &str| loaded(&sources(&format!("ledger.url = 'memory:'\n{text}"))).0.router.classifier;
    assert_eq!(kind(""), ClassifierKind::Learned(Cuts::trained()), "the file's cut points are those of the weights");
    assert_eq!(kind("router.classifier = 'keywords'"), ClassifierKind::Keywords);
    let ClassifierKind::Learned(cuts) = kind("[router.cuts]\nmoderate = 0.0\ncomplex = 0.5\npremium = 1.0") else {
        panic!("not learned");
    };
    assert_eq!(cuts.points(), [0.0, 0.5, 1.0]);
}

#[test]
fn cut_points_that_descend_are_a_fault() {
    let text = "[router.cuts]\nmoderate = 0.6\ncomplex = 0.5";
    let faults = load(&sources(text), &|_| Ok(String::new())).unwrap_err().to_string();
    assert!(faults.contains("`router.cuts` must not descend"), "{faults}");
}

#[test]
fn the_cache_directory_follows_the_environment() {
    let env = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let all = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("SPILLWAY_CACHE", "/s")];
    assert_eq!(default_cache_dir(&env(&all)), PathBuf::from("/s"));
    assert_eq!(default_cache_dir(&env(&all[..2])), PathBuf::from("/x/spillway"));
    assert_eq!(default_cache_dir(&env(&all[..1])), PathBuf::from("/h/.cache/spillway"));
}

#[test]
fn hedging_and_the_cascade_are_off_until_switched_on_and_money_is_read_to_the_nano_dollar() {
    let router = |file: &str| loaded(&sources(file)).0.router;
    assert_eq!((router("").hedge, router("").cascade), (HedgeConfig::default(), CascadeConfig::default()));
    assert!(!router("").hedge.enabled && !router("").cascade.enabled);
    let on = router(
        "[router.hedge]\nenabled = true\nafter_ms = 50\nmax_usd_per_hour = 0.000000001\n\
         [router.cascade]\nenabled = true\nhold_back_tokens = 0\nmin_mean_logprob = -1.5\n",
    );
    let hedge = HedgeConfig { enabled: true, after: Duration::from_millis(50), max_per_hour: NanoUsd::new(1) };
    assert_eq!(
        (on.hedge, on.cascade),
        (hedge, CascadeConfig { enabled: true, min_mean_logprob: Some(-1.5), hold_back_tokens: 0 })
    );
    let wrong = faults(&sources(
        "[router.hedge]\nafter_ms = 0\nmax_usd_per_hour = -1\n[router.cascade]\nenabled = 1\nhold_back_tokens = 2000\nmin_mean_logprob = 1\n",
    ));
    let said = ["`router.hedge.after_ms` must be from 1", "`router.hedge.max_usd_per_hour` must not be negative"];
    let more = [
        "`router.cascade.enabled` must be true or false",
        "`router.cascade.hold_back_tokens` must be from 0 to 1024",
        "`router.cascade.min_mean_logprob` must be from -100 to 0",
    ];
    for what in said.into_iter().chain(more) {
        assert!(wrong.iter().any(|fault| fault.contains(what)), "{what}: {wrong:#?}");
    }
}

#[test]
fn the_ledger_has_its_journal_beside_it_and_a_demo_has_none() {
    let place = |text: &str| loaded(&sources(text)).0.ledger;
    let default = place("");
    assert!(matches!(&default.place, LedgerPlace::Sqlite(path) if path.to_str() == Some("spillway.db")));
    assert_eq!(default.journal_dir, Some(PathBuf::from("spillway.db.journal")));
    assert_eq!((default.budget.day, default.budget.month), (None, None));
    assert_eq!(default.retention, Some(Duration::from_secs(90 * 86_400)));
    let server = place("ledger.url = 'postgres://u:p@h/d'\nledger.budget_usd_per_day = 2.5\nledger.retention_days = 0");
    assert!(matches!(server.place, LedgerPlace::Postgres(_)) && server.retention.is_none());
    assert_eq!(server.journal_dir, Some(PathBuf::from("spillway.journal")));
    assert_eq!(server.budget.day, Some(NanoUsd::new(2_500_000_000)));
    let named = place("ledger.url = 'sqlite:///var/lib/x.db'\nledger.journal_dir = '/fast/journal'");
    assert!(matches!(&named.place, LedgerPlace::Sqlite(path) if path.to_str() == Some("/var/lib/x.db")));
    assert_eq!(named.journal_dir, Some(PathBuf::from("/fast/journal")));
    let demo = Some(DemoCloud { base_url: "http://127.0.0.1:9/v1".into() });
    let demo = loaded(&Sources { demo, ..sources("") }).0.ledger;
    assert!(matches!(demo.place, LedgerPlace::Memory) && demo.journal_dir.is_none());
}
