//! `spillway models`: fetch, list, describe, check and remove model files. The only place that downloads anything, and only
//! what an operator names here or in configuration: no request can make the gateway fetch an address.

mod bar;
mod digest;
mod fetch;
mod http;
mod list;
mod pip;
mod show;
mod store;

use crate::cli::{self, ConfigArgs};
use clap::{Args, Subcommand};
use spillway_actors::config::{CatalogueModel, Config, LocalConfig, Source};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use store::Kept;

pub(crate) use bar::bytes;
pub(crate) use show::{memory_lines, summary_lines};
pub(crate) use store::free_bytes;

/// Exit code for a name that nobody knows, as for any wrong usage.
const USAGE: u8 = 2;

#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: ModelsCommand,
}

const PULL_HELP: &str = "\
NAME is a name of config/models.toml or of a [models.NAME] table, or a source itself:
  hf:OWNER/REPO/FILE.gguf   hf:OWNER/REPO@REVISION/FILE.gguf   https://…/FILE.gguf

HF_TOKEN, if set, is shown to Hugging Face and to nobody else; HF_ENDPOINT names a mirror of it.
A download that was cut goes on where it stopped. Exit codes: 0 it is here and right, 1 failed, 2 unknown name.

Examples:
  spillway models pull smollm2-135m
  spillway models pull hf:bartowski/SmolLM2-360M-Instruct-GGUF/SmolLM2-360M-Instruct-Q4_K_M.gguf";

const LS_HELP: &str = "\
Examples:
  spillway models ls
  spillway models ls --json";

const SHOW_HELP: &str = "\
Examples:
  spillway models show smollm2-135m
  spillway models show --json smollm2-135m";

const RM_HELP: &str = "\
Example:
  spillway models rm smollm2-135m";

const VERIFY_HELP: &str = "\
Exit codes: 0 all are right, 1 one is not, 2 unknown name.

Examples:
  spillway models verify
  spillway models verify --json smollm2-135m";

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Fetch a model into the cache, unless it is there already; its checksum is verified before it gets its name.
    #[command(after_help = PULL_HELP)]
    Pull(NamesArgs),
    /// List the models that are known, and those in the cache.
    #[command(after_help = LS_HELP)]
    Ls(ListArgs),
    /// Describe a model: where it comes from, what its file says, how much memory it needs.
    #[command(after_help = SHOW_HELP)]
    Show(ShowArgs),
    /// Remove a model's file, and what an unfinished download left.
    #[command(after_help = RM_HELP)]
    Rm(NamesArgs),
    /// Compare the files in the cache with their checksums and look for damage.
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct NamesArgs {
    /// Which models.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// A model's name, an hf: source that was pulled, or the path of a .gguf file.
    #[arg(value_name = "NAME")]
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Which models; none = all in the cache.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &ModelsArgs) -> ExitCode {
    let config = match cli::load(&args.config, None) {
        Ok((config, _)) => config,
        Err(error) => return cli::failed(&error),
    };
    match &args.command {
        ModelsCommand::Pull(args) => pull(&config, &args.names).await,
        ModelsCommand::Ls(args) => list::run(&config, args.json),
        ModelsCommand::Show(args) => show::run(&config, &args.name, args.json),
        ModelsCommand::Rm(args) => remove(&config, &args.names),
        ModelsCommand::Verify(args) => list::verify(&config, &args.names, args.json),
    }
}

/// A model that was named on the command line.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    model: CatalogueModel,
    kept: Kept,
    /// Where an earlier version kept it, or another model of the same file name.
    former: Option<PathBuf>,
}

/// A catalogue name, or a source.
fn find(config: &Config, name: &str) -> Result<Named, String> {
    let model = match (config.catalogue.get(name), name.parse::<Source>()) {
        (Some(model), _) => model.clone(),
        (None, Ok(source @ (Source::Hf { .. } | Source::Https(_) | Source::Pip { .. }))) => {
            CatalogueModel::from_source(source)
        }
        _ => {
            let known: Vec<&str> = config.catalogue.names().collect();
            return Err(format!(
                "no model is called {name}; known: {}, and sources such as hf:OWNER/REPO/FILE.gguf",
                known.join(", ")
            ));
        }
    };
    let kept = Kept::at(model.path(&config.cache_dir));
    let former = model.former_path(&config.cache_dir);
    Ok(Named { name: name.to_owned(), model, kept, former })
}

/// A file that no catalogue knows.
fn own_file(path: &Path) -> Named {
    let model = CatalogueModel::from_source(Source::File(path.to_path_buf()));
    Named { name: path.display().to_string(), model, kept: Kept::at(path.to_path_buf()), former: None }
}

/// What is wrong with the file of a local target, its checksum included if one is known; `None`: nothing.
pub(crate) fn fault_of(config: &Config, local: &LocalConfig) -> Option<String> {
    let named = local.pull.as_deref().and_then(|name| find(config, name).ok());
    let named = named.unwrap_or_else(|| own_file(&local.model_path));
    let expected = named.model.sha256.clone().or_else(|| named.kept.noted_digest());
    list::fault(&named, expected.as_deref())
}

/// All of the names, or an exit code after a complaint.
fn find_all(config: &Config, names: &[String]) -> Result<Vec<Named>, ExitCode> {
    let found: Result<Vec<Named>, String> = names.iter().map(|name| find(config, name)).collect();
    found.map_err(|why| {
        cli::failed(&why);
        ExitCode::from(USAGE)
    })
}

async fn pull(config: &Config, names: &[String]) -> ExitCode {
    let found = match find_all(config, names) {
        Ok(found) => found,
        Err(code) => return code,
    };
    for named in found {
        if let Err(error) = fetch::fetch(&named).await {
            return cli::failed(&format!("{}: {error}", named.name));
        }
    }
    ExitCode::SUCCESS
}

fn remove(config: &Config, names: &[String]) -> ExitCode {
    let found = match find_all(config, names) {
        Ok(found) => found,
        Err(code) => return code,
    };
    for named in found {
        match named.kept.remove() {
            Ok(bytes) => cli::note(&format!("{}: removed, {} freed", named.name, bar::bytes(bytes))),
            Err(error) => return cli::failed(&format!("{}: {error}", named.name)),
        }
    }
    ExitCode::SUCCESS
}

/// Which target of the configuration loads this file, by its name.
fn used_by(config: &Config, path: &Path) -> Vec<String> {
    config.locals.iter().filter(|local| local.model_path == path).map(|local| local.name.to_string()).collect()
}
