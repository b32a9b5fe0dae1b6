//! `GET /openapi.json`: what the API listener takes and gives, as an OpenAPI 3.1 document.
//!
//! Made from the types in this folder, which describe the wire and do nothing else: requests are read field by field
//! ([`parse`](super::parse)) and answers written as JSON, because both carry fields that no type here could name. That the
//! description is true is held by tests: answers are validated against it, and its paths are the router's.

#![allow(dead_code, reason = "the fields describe the wire; nothing reads them")]

mod anthropic;
mod chat;
mod completion;
mod embeddings;
mod meta;
mod paths;
mod responses;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, SecurityRequirement};

/// Of the document and of the gateway: they come from one build.
const VERSION: &str = env!("CARGO_PKG_VERSION");

static TEXT: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());

/// The document as JSON.
pub(super) fn text() -> &'static str {
    &TEXT
}

fn document() -> OpenApi {
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Spillway")
        .version(VERSION)
        .description(Some("A hybrid LLM inference gateway: easy requests on the local GPU, hard ones in the cloud."))
        .license(Some(license))
        .build();
    let (paths, components) = paths::all();
    // Where no keys are required, none is the third way.
    let keys = paths::KEYS.map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
    let keys = keys.into_iter().chain([SecurityRequirement::default()]);
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).security(Some(keys)).build()
}
