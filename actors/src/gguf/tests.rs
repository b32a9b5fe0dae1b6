use super::{sample::Sample, *};
use proptest::prelude::*;
use std::{io::Cursor, path::PathBuf};

fn read_bytes(bytes: &[u8]) -> Result<Gguf, GgufError> {
    read(Cursor::new(bytes), bytes.len() as u64)
}

#[test]
fn the_facts_of_a_model_are_read() {
    let model = read_bytes(&Sample::tiny().bytes()).unwrap();
    assert_eq!(
        (model.architecture.as_str(), model.name.as_deref(), model.file_type),
        ("llama", Some("Tiny"), Some("F16"))
    );
    assert_eq!((model.layers, model.context_length, model.vocabulary), (Some(2), Some(4096), Some(5)));
    assert_eq!((model.heads.as_slice(), model.heads_kv.as_slice()), (&[4][..], &[2][..]));
    assert!(model.has_chat_template && model.fim.is_whole() && !model.is_embedder());
    assert_eq!(model.fim, Fim { prefix: Some(2), suffix: Some(3), middle: Some(4) });
    let layer = 64 * 64 * 2;
    assert_eq!(model.tensors.layers, [layer, layer]);
    assert_eq!((model.tensors.embedding, model.tensors.output), (12_800, 12_800));
    assert_eq!((model.tensors.count, model.tensors.bytes), (4, 2 * (layer + 12_800)));
}

#[test]
fn a_list_of_heads_has_one_for_each_layer() {
    let model = read_bytes(
        &Sample::default().text("general.architecture", "x").numbers("x.attention.head_count_kv", &[1, 2, 3]).bytes(),
    );
    assert_eq!(model.unwrap().heads_kv, [1, 2, 3]);
}

#[test]
fn an_embedding_model_says_how_it_pools() {
    let model =
        read_bytes(&Sample::default().text("general.architecture", "bert").number("bert.pooling_type", 2).bytes());
    let model = model.unwrap();
    assert!(model.is_embedder());
    assert_eq!(model.pooling, Some(Pooling::Cls));
}

#[test]
fn a_file_cut_anywhere_is_told_from_a_whole_one() {
    let bytes = Sample::tiny().bytes();
    for cut in 0..bytes.len() {
        let error = read_bytes(&bytes[..cut]).expect_err("cut");
        assert!(error.is_damage(), "cut at {cut}: {error}");
    }
    let error = read_bytes(&bytes[..bytes.len() - 1]).unwrap_err();
    let needed = bytes.len() as u64;
    assert!(matches!(error, GgufError::Truncated { needed: n, size } if n == needed && size == needed - 1), "{error}");
}

#[test]
fn what_is_no_gguf_says_so() {
    for (bytes, why) in [
        (&b"hello, world, this is no model"[..], "does not begin with GGUF"),
        (b"GGUF", "shorter than"),
        (b"GGUF\x09\0\0\0................", "version 9"),
        (&[b"GGUF\x03\0\0\0".as_slice(), &[0xff; 16]].concat(), "it claims"),
    ] {
        let error = read_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_claim_beyond_the_file_allocates_nothing() {
    for length in [u64::MAX, 1 << 40, 4_097] {
        let text = [&b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"[..], &length.to_le_bytes(), b"abc"].concat();
        assert!(matches!(read_bytes(&text), Err(GgufError::Corrupt(_))));
    }
    let layers = Sample::default().text("general.architecture", "x").number("x.block_count", u32::MAX).bytes();
    assert!(read_bytes(&layers).unwrap_err().to_string().contains("layers"));
}

#[test]
fn a_fact_or_a_tensor_stated_twice_is_damage() {
    let twice = Sample::tiny().text("general.name", "Other").bytes();
    assert!(matches!(read_bytes(&twice), Err(GgufError::Corrupt(_))));
    let twice = Sample::tiny().tensor("output.weight", &[64], 1, 2).bytes();
    assert!(matches!(read_bytes(&twice), Err(GgufError::Corrupt(_))));
}

#[test]
fn rows_that_are_no_whole_blocks_are_damage_and_unknown_types_are_counted() {
    let odd = Sample::tiny().tensor("blk.0.odd", &[33, 1], 2, 1).bytes();
    assert!(matches!(read_bytes(&odd), Err(GgufError::Corrupt(_))));
    let unknown = read_bytes(&Sample::tiny().tensor("blk.0.new", &[64], 4242, 1).bytes()).unwrap();
    assert_eq!(unknown.tensors.of_unknown_type, 1);
}

#[test]
fn an_absent_file_or_a_folder_is_no_damage() {
    for path in [PathBuf::from("/nonexistent/model.gguf"), std::env::temp_dir()] {
        assert!(!inspect(&path).unwrap_err().is_damage());
    }
}

#[test]
fn a_split_model_is_the_sum_of_its_parts() {
    let folder = std::env::temp_dir().join(format!("spillway-gguf-split-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let whole = Sample::tiny().number("split.count", 2).bytes();
    let part = Sample::default().number("split.count", 2).tensor("blk.1.more", &[100], 0, 4).bytes();
    let first = folder.join("m-00001-of-00002.gguf");
    std::fs::write(&first, &whole).unwrap();
    let missing = inspect(&first).unwrap_err();
    assert!(!missing.is_damage() && missing.to_string().contains("m-00002-of-00002.gguf"), "{missing}");
    std::fs::write(folder.join("m-00002-of-00002.gguf"), &part).unwrap();
    let model = inspect(&first).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!((model.tensors.count, model.bytes), (5, (whole.len() + part.len()) as u64));
    assert_eq!(model.tensors.layers.iter().sum::<u64>(), 2 * 64 * 64 * 2 + 400);
}

#[test]
fn kv_types_know_their_words_and_sizes() {
    for (word, kind) in KvType::ALL {
        assert_eq!((word.parse(), kind.word()), (Ok(kind), word));
        assert_eq!(serde_json::to_value(kind).unwrap(), word);
    }
    assert_eq!((KvType::F16.row_bytes(64), KvType::Q8_0.row_bytes(64), KvType::Q4_0.row_bytes(64)), (128, 68, 36));
}

proptest! {
    #[test]
    fn garbage_is_refused_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read_bytes(&bytes);
    }

    #[test]
    fn a_header_before_garbage_is_refused_or_read_and_never_a_panic(
        tensors in 0_u64..4, pairs in 0_u64..6, rest in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let head = [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat();
        let _ = read_bytes(&[head, rest].concat());
    }

    /// A whole file with some bytes changed is read or refused; whatever is read stays inside its bounds.
    #[test]
    fn changed_bytes_never_lead_out_of_bounds(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = Sample::tiny().bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(model) = read_bytes(&bytes) {
            prop_assert!(model.tensors.layers.len() <= model::MAX_LAYERS as usize);
            prop_assert!(model.name.is_none_or(|name| name.len() <= model::MAX_TEXT * 3));
        }
    }
}
