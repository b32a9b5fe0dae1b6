//! `spillway keys`: makes, lists and revokes API keys. Asks the running gateway, if one listens where the configuration says,
//! so that it holds at once; else works on the key store itself, which a gateway that starts later, or runs elsewhere on
//! the same store, takes in.

mod gateway;
mod line;
pub(crate) mod names;
mod table;
pub(crate) mod view;

use crate::cli::{self, ConfigArgs, TokenArgs, note};
use clap::{Args, Subcommand};
use gateway::Gateway;
pub(crate) use gateway::reachable;
use line::CreateArgs;
use serde_json::{Value, json};
use spillway_actors::{
    config::Config,
    keys::{Keys, KeysError, WishFault, unix_now},
};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    order: Order,
}

const CREATE_HELP: &str = "\
The secret is the only line on stdout, shown this once.

Examples:
  KEY=$(spillway keys create --name laptop)
  spillway keys create --name ci --group ci --model local --requests-per-minute 60 --budget-month 20 --expires 90d";

const LS_HELP: &str = "\
Examples:
  spillway keys ls
  spillway keys ls --json --offline";

const REVOKE_HELP: &str = "\
Example:
  spillway keys revoke key_0123456789abcdef";

#[derive(Debug, Subcommand)]
enum Order {
    /// Make a key and show its secret, once.
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
    /// List the keys there are.
    #[command(after_help = LS_HELP)]
    Ls(Common),
    /// Revoke keys by their ids; it holds for every request from now on.
    #[command(after_help = REVOKE_HELP)]
    Revoke {
        #[command(flatten)]
        common: Common,
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    token: TokenArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Work on the key store itself, whether or not a gateway runs.
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Wish(#[from] WishFault),
    #[error("{0}")]
    Keys(#[from] KeysError),
    #[error("the gateway at {url} {why}")]
    Gateway { url: String, why: String },
    #[error("there is no key {0}")]
    Unknown(String),
}

pub async fn run(args: KeysArgs) -> ExitCode {
    let json = match &args.order {
        Order::Create(args) => args.wants_json(),
        Order::Ls(common) | Order::Revoke { common, .. } => common.json,
    };
    let done = match args.order {
        Order::Create(args) => create(args).await,
        Order::Ls(common) => list(&common).await,
        Order::Revoke { common, ids } => revoke(&common, &ids).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::failed_as(json, &error),
    }
}

/// Who does the work.
enum Desk {
    Gateway(Gateway),
    Store(Keys),
}

impl Desk {
    async fn of(common: &Common) -> Result<(Self, Config), OrderError> {
        let config = cli::load_to_look(&common.config).map_err(|error| OrderError::Config(error.to_string()))?;
        if !common.offline
            && let Some(gateway) = Gateway::find(&config, common.token.token().map_err(OrderError::Config)?).await?
        {
            note(&format!("asking the gateway at {}", gateway.url()));
            return Ok((Self::Gateway(gateway), config));
        }
        let keys = Keys::configured(&config.keys);
        keys.renew().await?;
        note(&format!("no gateway asked; key store: {}", keys.place()));
        Ok((Self::Store(keys), config))
    }
}

async fn create(args: CreateArgs) -> Result<(), OrderError> {
    let (common, wish) = args.wish();
    let (desk, config) = Desk::of(&common).await?;
    let key = match desk {
        Desk::Gateway(gateway) => gateway.create(&wish).await?,
        Desk::Store(keys) => {
            let (secret, key) = keys.create(names::resolved(wish, &config)?, unix_now()).await?;
            view::made(&key, &secret, unix_now())
        }
    };
    if common.json {
        cli::say(&format!("{key:#}"));
        return Ok(());
    }
    note(&format!("made {} ({}). Its secret is shown this once:", text(&key, "id"), text(&key, "name")));
    cli::say(&text(&key, "secret"));
    Ok(())
}

fn text(key: &Value, field: &str) -> String {
    key[field].as_str().unwrap_or_default().to_owned()
}

async fn list(common: &Common) -> Result<(), OrderError> {
    let keys: Vec<Value> = match Desk::of(common).await?.0 {
        Desk::Gateway(gateway) => gateway.list().await?,
        Desk::Store(keys) => keys.all().iter().map(|key| view::key(&key.record, unix_now())).collect(),
    };
    if common.json {
        cli::say(&format!("{:#}", json!({"object": "list", "data": keys})));
    } else {
        cli::show(table::of(&keys).trim_end());
    }
    Ok(())
}

async fn revoke(common: &Common, ids: &[String]) -> Result<(), OrderError> {
    let (desk, _) = Desk::of(common).await?;
    let mut revoked = Vec::new();
    for id in ids {
        let key = match &desk {
            Desk::Gateway(gateway) => gateway.revoke(id).await?,
            Desk::Store(keys) => keys.revoke(id, unix_now()).await?.map(|key| view::key(&key, unix_now())),
        };
        revoked.push(key.ok_or_else(|| OrderError::Unknown(id.clone()))?);
        if !common.json {
            cli::say(&format!("revoked {id}"));
        }
    }
    if common.json {
        cli::say(&format!("{:#}", json!({"object": "list", "data": revoked})));
    }
    Ok(())
}
