//! The configuration in force, replaced as a whole; and what of a new one can come into force while the gateway runs.

use super::{CloudConfig, Config, LocalConfig, ServerConfig};
use arc_swap::ArcSwap;
use std::{fmt, sync::Arc};

/// Whoever serves a request takes [`LiveConfig::load`] once and keeps to it until the request has ended.
#[derive(Clone)]
pub struct LiveConfig(Arc<ArcSwap<Config>>);

impl LiveConfig {
    pub fn new(config: Arc<Config>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }

    pub fn load(&self) -> Arc<Config> {
        self.0.load_full()
    }

    pub(crate) fn publish(&self, config: Arc<Config>) {
        self.0.store(config);
    }
}

impl fmt::Debug for LiveConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveConfig")
    }
}

/// `wanted`, but for the parts that only a restart can change: those stay as they are and are named. `started` is what the
/// process began with, `running` what is in force now.
///
/// Live are: what clients may send and see, bounds of requests and connections, rules, aliases, prices, budgets, a provider's models
/// and keys, certificates, tokens, the chaos endpoint.
pub fn in_force(started: &Config, running: &Config, mut wanted: Config) -> (Config, Vec<String>) {
    let mut kept = Kept(Vec::new());
    let (server, old) = (&mut wanted.server, &started.server);
    kept.back("server.listen", &mut server.listen, &old.listen);
    kept.back("server.admin_listen", &mut server.admin_listen, &old.admin_listen);
    kept.guards(server, &running.server);
    kept.back("keys", &mut wanted.keys, &started.keys);
    let (edge, old) = (&mut server.edge, &old.edge);
    kept.back("server.max_connections", &mut edge.max_connections, &old.max_connections);
    kept.back("server.max_bodies_bytes", &mut edge.max_bodies_bytes, &old.max_bodies_bytes);
    kept.back("keys", &mut wanted.keys, &started.keys);
    kept.locals(&mut wanted.locals, &started.locals);
    // What local targets were made from.
    wanted.catalogue.clone_from(&started.catalogue);
    wanted.cache_dir.clone_from(&started.cache_dir);
    wanted.clouds = kept.clouds(&wanted.clouds, &started.clouds, &running.clouds);
    kept.back("router.session", &mut wanted.router.session, &started.router.session);
    let (hedge, old) = (&mut wanted.router.hedge, &started.router.hedge);
    kept.back("router.hedge.max_usd_per_hour", &mut hedge.max_per_hour, &old.max_per_hour);
    kept.back("supervision", &mut wanted.supervision, &started.supervision);
    let (ledger, old) = (&mut wanted.ledger, &started.ledger);
    kept.back("ledger.url", &mut ledger.place, &old.place);
    kept.back("ledger.journal_dir", &mut ledger.journal_dir, &old.journal_dir);
    kept.back("ledger.max_journal_mb", &mut ledger.max_journal_bytes, &old.max_journal_bytes);
    kept.back("ledger.retention_days", &mut ledger.retention, &old.retention);
    kept.back("health", &mut wanted.health, &started.health);
    kept.back("otel", &mut wanted.otel, &started.otel);
    (wanted, kept.0)
}

/// Names of what was kept.
struct Kept(Vec<String>);

impl Kept {
    fn note(&mut self, what: impl Into<String>) {
        self.0.push(what.into());
    }

    fn back<T: PartialEq + Clone>(&mut self, name: &str, wanted: &mut T, started: &T) {
        if wanted != started {
            self.note(name);
            wanted.clone_from(started);
        }
    }

    /// A listener that stays where it is, beyond loopback, keeps what guards it there, whatever the new file says: there it
    /// was judged together with an address that does not come into force.
    fn guards(&mut self, server: &mut ServerConfig, running: &ServerConfig) {
        if !server.listen.ip().is_loopback() && !server.require_keys {
            self.note("server.require_keys");
            server.require_keys = true;
        }
        if !server.admin_listen.ip().is_loopback() && server.admin_token.is_none() {
            self.note("server.admin_token_file");
            server.admin_token.clone_from(&running.admin_token);
        }
    }

    /// A local target is a process with a model in memory: nothing of it changes without a restart.
    fn locals(&mut self, wanted: &mut Vec<Arc<LocalConfig>>, started: &[Arc<LocalConfig>]) {
        for local in wanted.iter().filter(|local| !started.contains(local)) {
            self.note(format!("local.{}", local.name));
        }
        for gone in started.iter().filter(|old| !wanted.iter().any(|local| local.name == old.name)) {
            self.note(format!("local.{} (removed)", gone.name));
        }
        *wanted = started.to_vec();
    }

    /// Providers keep their places, because requests hold their index. One that is no longer wanted has neither models nor
    /// keys; a new one waits for the restart.
    fn clouds(
        &mut self,
        wanted: &[Arc<CloudConfig>],
        started: &[Arc<CloudConfig>],
        running: &[Arc<CloudConfig>],
    ) -> Vec<Arc<CloudConfig>> {
        for new in wanted.iter().filter(|cloud| !started.iter().any(|old| old.name == cloud.name)) {
            self.note(format!("cloud.{} (new)", new.name));
        }
        let places = started.iter().zip(running);
        let next = places.map(|(started, running)| match wanted.iter().find(|cloud| cloud.name == started.name) {
            Some(wanted) => self.cloud(wanted, started, running),
            None => Arc::new(CloudConfig { models: Vec::new(), keys: Vec::new(), ..CloudConfig::clone(running) }),
        });
        next.collect()
    }

    fn cloud(
        &mut self,
        wanted: &Arc<CloudConfig>,
        started: &CloudConfig,
        running: &Arc<CloudConfig>,
    ) -> Arc<CloudConfig> {
        // Its new keys and models may be meant for another address: nothing of it is taken over.
        if !is_same_provider(wanted, started) {
            self.note(format!("cloud.{}", wanted.name));
            return Arc::clone(running);
        }
        // Without a key at the start it has no actors.
        if wanted.is_usable() && !started.is_usable() {
            self.note(format!("cloud.{} (its first key)", wanted.name));
            return Arc::new(CloudConfig { keys: Vec::new(), ..CloudConfig::clone(wanted) });
        }
        Arc::clone(wanted)
    }
}

/// Whether nothing but models and keys differs.
fn is_same_provider(one: &CloudConfig, other: &CloudConfig) -> bool {
    let same = CloudConfig {
        models: one.models.clone(),
        keys: one.keys.clone(),
        key_sources: one.key_sources.clone(),
        ..other.clone()
    };
    // All that is left is plain and has no secret: its text is its value.
    format!("{one:?}") == format!("{same:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};
    use std::{
        io,
        path::{Path, PathBuf},
    };

    const CLOUD: &str = "[[cloud]]\nname = \"a\"\nbase_url = \"http://127.0.0.1:1/v1\"\napi_keys_env = [\"A\"]\n";

    fn model(name: &str, usd: &str) -> String {
        format!("[[cloud.models]]\nname = \"{name}\"\ninput_usd_per_mtok = {usd}\noutput_usd_per_mtok = {usd}\n")
    }

    fn config(text: &str) -> Config {
        let file = Some((PathBuf::from("my.toml"), text.to_owned()));
        let env = vec![("A".to_owned(), "sk-a".to_owned()), ("B".to_owned(), "sk-b".to_owned())];
        match load(&Sources { file, env, ..Sources::default() }, &|_| Err(io::ErrorKind::NotFound.into())) {
            Ok((config, _)) => config,
            Err(faults) => panic!("{faults}"),
        }
    }

    fn models(config: &Config) -> Vec<Vec<String>> {
        let names = |cloud: &Arc<CloudConfig>| cloud.models.iter().map(|model| model.name.to_string()).collect();
        config.clouds.iter().map(names).collect()
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let text = format!("{CLOUD}{}", model("m", "1"));
        let started = config(&text);
        let (next, kept) = in_force(&started, &started, config(&text));
        assert_eq!(kept, Vec::<String>::new());
        assert_eq!(models(&next), models(&started));
    }

    #[test]
    fn a_listener_beyond_loopback_keeps_its_guards() {
        let token = |path: &Path| match path.to_str() {
            Some("token") => Ok("secret-token".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let file = "[server]\nlisten = '0.0.0.0:8080'\nrequire_keys = true\nadmin_listen = '0.0.0.0:8081'\n\
                    admin_token_file = 'token'\n";
        let sources = Sources { file: Some((PathBuf::from("my.toml"), file.to_owned())), ..Sources::default() };
        let started = load(&sources, &token).unwrap().0;
        let (next, kept) = in_force(&started, &started, config("keys.file = 'other.json'"));
        assert_eq!(
            kept,
            ["server.listen", "server.admin_listen", "server.require_keys", "server.admin_token_file", "keys"]
                .map(str::to_owned)
        );
        assert!(next.server.require_keys && next.server.admin_token.is_some());
        assert_eq!(next.keys, started.keys);
        let here = config("");
        let (next, kept) = in_force(&here, &here, config("server.require_keys = true"));
        assert!(next.server.require_keys && kept.is_empty(), "on loopback they come and go as the file says");
    }

    #[test]
    fn models_prices_rules_and_limits_are_live() {
        let started = config(&format!("{CLOUD}{}{}", model("m", "1"), model("gone", "1")));
        let wanted = format!(
            "{CLOUD}{}{}[server]\nmax_inflight = 7\n[router.aliases]\nx = \"auto\"\n[router.rules.trivial]\nprefer = [\"new\"]\n",
            model("m", "2"),
            model("new", "1")
        );
        let (next, kept) = in_force(&started, &started, config(&wanted));
        assert_eq!(kept, Vec::<String>::new());
        assert_eq!(models(&next), [["m", "new"]]);
        assert_eq!(next.server.max_inflight, 7);
        assert!(next.router.aliases.contains_key("x"));
        assert_ne!(next.clouds[0].models[0].price, started.clouds[0].models[0].price);
    }

    #[test]
    fn what_needs_a_restart_stays_and_is_named() {
        let started = config("[server]\nlisten = \"127.0.0.1:1\"\n");
        let wanted = config(
            "[server]\nlisten = \"127.0.0.1:2\"\nmax_connections = 9\n[[local]]\nname = \"other\"\n[health]\ninterval_ms = 77\n\
             [ledger]\nurl = \"memory:\"\nretention_days = 7\n",
        );
        let (next, kept) = in_force(&started, &started, wanted);
        let expected = [
            "server.listen",
            "server.max_connections",
            "local.other",
            "local.local (removed)",
            "ledger.url",
            "ledger.journal_dir",
            "ledger.retention_days",
            "health",
        ];
        assert_eq!(kept, expected);
        assert_eq!(next.server.listen, started.server.listen);
        assert_eq!(next.locals, started.locals);
    }

    #[test]
    fn a_key_never_goes_to_an_address_it_was_not_written_beside() {
        let started = config(&format!("{CLOUD}{}", model("m", "1")));
        let elsewhere = CLOUD.replace("127.0.0.1:1", "127.0.0.1:2").replace("\"A\"", "\"B\"");
        let (next, kept) = in_force(&started, &started, config(&format!("{elsewhere}{}", model("m", "1"))));
        assert_eq!(kept, ["cloud.a"]);
        use secrecy::ExposeSecret;
        assert_eq!(next.clouds[0].keys[0].expose_secret(), "sk-a");
        assert!(next.clouds[0].base_url.contains(":1/"));
    }

    #[test]
    fn a_provider_that_is_taken_out_keeps_its_place_and_comes_back() {
        let second = CLOUD.replace("\"a\"", "\"b\"");
        let both = format!("{CLOUD}{}{second}{}", model("m", "1"), model("n", "1"));
        let started = config(&both);
        let (without, kept) = in_force(&started, &started, config(&format!("{second}{}", model("n", "1"))));
        assert_eq!(kept, Vec::<String>::new());
        assert_eq!(models(&without), [Vec::<String>::new(), vec!["n".to_owned()]]);
        assert!(!without.clouds[0].is_usable());
        let (again, kept) = in_force(&started, &without, config(&both));
        assert_eq!((kept, models(&again)), (Vec::new(), models(&started)));
        assert!(again.clouds[0].is_usable());
    }
}
