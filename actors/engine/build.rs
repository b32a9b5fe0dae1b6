//! Tells the linker where an engine with plug-ins finds llama.cpp's shared libraries: beside itself first, so that a
//! folder can be moved, then where cargo built them. A build without plug-ins is one static file and needs nothing.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_PLUGINS").is_none() {
        return;
    }
    // DT_RPATH, not DT_RUNPATH: the plug-ins are found through it as well.
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib");
    if let Some(plugins) = env::var_os("DEP_LLAMA_BACKENDS_DIR").map(PathBuf::from)
        && let Some(built) = plugins.parent()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", built.join("lib").display());
    }
}
