use super::*;
use crate::gguf::{read, sample::Sample};
use proptest::prelude::*;

const HEALTHY: Duration = Duration::from_secs(300);

fn configured() -> LoadPlan {
    LoadPlan {
        model_path: "big.gguf".into(),
        ubatch_tokens: 512,
        kv_type_k: KvType::F16,
        kv_type_v: KvType::F16,
        parallel: 8,
        context_tokens: 8192,
        max_request_tokens: None,
        frugal: false,
        embedding_tokens: Some(2048),
        gpu_layers: None,
    }
}

fn known(layers_on_gpu: u32) -> Known {
    Known {
        layers_on_gpu,
        kv_can_be_quantised: true,
        smaller_models: vec!["small.gguf".into()],
        embeddings_at_fault: false,
    }
}

fn ladder() -> Ladder {
    Ladder::new(configured(), HEALTHY)
}

/// Falls to the bottom; says what was given up on the way.
fn fall(ladder: &mut Ladder, mut layers: u32, now: Instant) -> Vec<&'static str> {
    let mut given_up = Vec::new();
    while let Verdict::Down(reduction) = ladder.out_of_memory(&known(layers), now) {
        given_up.push(reduction.label());
        layers = ladder.plan().gpu_layers.unwrap_or(layers);
    }
    given_up
}

#[tokio::test(start_paused = true)]
async fn each_failure_gives_up_one_thing_in_the_documented_order() {
    let mut ladder = ladder();
    let given_up = fall(&mut ladder, 33, Instant::now());
    let expected = [
        "smaller_batch",
        "quantised_kv",
        "fewer_slots",
        "smaller_context",
        "smaller_context",
        "fewer_gpu_layers",
        "fewer_gpu_layers",
        "smaller_model",
    ];
    assert_eq!(given_up, expected);
    let plan = ladder.plan();
    assert_eq!((plan.ubatch_tokens, plan.kv_type_k, plan.parallel, plan.context_tokens), (128, KvType::Q8_0, 4, 2048));
    assert_eq!((plan.gpu_layers, plan.model_path.to_str()), (Some(17), Some("small.gguf")));
    assert!(ladder.view().exhausted);
}

#[tokio::test(start_paused = true)]
async fn vectors_that_find_no_memory_cost_no_place_and_no_context_and_at_last_themselves() {
    let mut ladder = ladder();
    let at_fault = Known { embeddings_at_fault: true, ..known(33) };
    for given_up in ["smaller_batch", "quantised_kv", "no_embeddings"] {
        let Verdict::Down(reduction) = ladder.out_of_memory(&at_fault, Instant::now()) else {
            panic!("a rung is left")
        };
        assert_eq!(reduction.label(), given_up);
    }
    let plan = ladder.plan();
    assert_eq!((plan.parallel, plan.context_tokens, plan.embedding_tokens), (8, 8192, None));
    // What text needs goes on from where it was.
    assert_eq!(fall(&mut ladder, 33, Instant::now()).first(), Some(&"fewer_slots"));
}

#[tokio::test(start_paused = true)]
async fn on_a_cpu_no_layer_is_moved_and_what_cannot_be_given_up_is_passed_over() {
    let mut ladder = Ladder::new(LoadPlan { parallel: 1, context_tokens: 1500, ..configured() }, HEALTHY);
    let known = Known::default();
    assert_eq!(ladder.out_of_memory(&known, Instant::now()), Verdict::Down(Reduction::SmallerBatch));
    assert_eq!(ladder.out_of_memory(&known, Instant::now()), Verdict::Exhausted);
    assert_eq!(ladder.rung(), 1, "the last rung that may serve is kept");
}

#[tokio::test(start_paused = true)]
async fn a_reduction_is_taken_back_after_a_healthy_time_one_at_a_time() {
    let (mut ladder, start) = (ladder(), Instant::now());
    fall(&mut ladder, 0, start);
    let bottom = ladder.rung();
    ladder.serves(start);
    assert!(!ladder.view().exhausted);
    assert_eq!(ladder.climb(start + HEALTHY - Duration::from_millis(1)), None);
    let mut now = start + HEALTHY;
    for rung in (0..bottom).rev() {
        assert!(ladder.climb(now).is_some());
        assert_eq!(ladder.rung(), rung);
        assert_eq!(ladder.climb(now + HEALTHY * 100), None, "first it must serve again");
        ladder.serves(now);
        now += HEALTHY;
    }
    assert_eq!((ladder.plan(), ladder.climbs_at()), (&configured(), None));
}

#[tokio::test(start_paused = true)]
async fn a_climb_that_fails_comes_down_one_rung_and_waits_twice_as_long() {
    let (mut ladder, mut now) = (ladder(), Instant::now());
    ladder.out_of_memory(&known(0), now);
    ladder.out_of_memory(&known(0), now);
    for doubling in 0..8 {
        ladder.serves(now);
        let wait = HEALTHY * (1 << doubling.min(MAX_DOUBLINGS));
        assert_eq!(ladder.climbs_at(), Some(now + wait));
        now += wait;
        assert_eq!(ladder.climb(now), Some(Reduction::QuantisedKv));
        assert_eq!(ladder.out_of_memory(&known(0), now), Verdict::Down(Reduction::QuantisedKv));
        assert_eq!(ladder.rung(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_dies_of_something_else_starts_its_healthy_time_anew() {
    let (mut ladder, start) = (ladder(), Instant::now());
    ladder.out_of_memory(&known(0), start);
    ladder.serves(start);
    ladder.ended();
    assert_eq!((ladder.climb(start + HEALTHY * 2), ladder.rung()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reload_asks_for_everything_back_at_once_until_memory_runs_out_again() {
    let (mut ladder, now) = (ladder(), Instant::now());
    for _ in 0..3 {
        ladder.out_of_memory(&known(0), now);
    }
    ladder.ask_back();
    assert_eq!(ladder.climb(now), None, "first an engine must serve");
    for rung in [2, 1] {
        ladder.serves(now);
        assert!(ladder.climb(now).is_some());
        assert_eq!(ladder.rung(), rung);
    }
    ladder.out_of_memory(&known(0), now);
    ladder.serves(now);
    assert_eq!(ladder.climb(now), None);
}

#[derive(Debug, Clone)]
enum Happening {
    OutOfMemory { layers: u32, quantised: bool, smaller: usize, embeddings: bool },
    Serves,
    Ended,
    Climb,
    Wait(u64),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        4 => (0_u32..40, any::<bool>(), 0_usize..3, any::<bool>())
            .prop_map(|(layers, quantised, smaller, embeddings)| Happening::OutOfMemory {
                layers,
                quantised,
                smaller,
                embeddings,
            }),
        2 => Just(Happening::Serves),
        1 => Just(Happening::Ended),
        3 => Just(Happening::Climb),
        3 => (1_u64..700).prop_map(Happening::Wait),
    ];
    proptest::collection::vec(one, 1..120)
}

proptest! {
    #[test]
    fn the_ladder_moves_one_rung_at_a_time_and_never_up_before_a_healthy_time(happenings in happenings()) {
        let mut ladder = ladder();
        let mut now = Instant::now();
        let mut serving_since: Option<Instant> = None;
        for happening in happenings {
            let before = (ladder.rung(), ladder.plan().clone());
            match happening {
                Happening::OutOfMemory { layers, quantised, smaller, embeddings } => {
                    let smaller_models = ["small.gguf", "smaller.gguf"].iter().take(smaller).map(PathBuf::from).collect();
                    let known = Known {
                        layers_on_gpu: layers,
                        kv_can_be_quantised: quantised,
                        smaller_models,
                        embeddings_at_fault: embeddings && ladder.plan().embedding_tokens.is_some(),
                    };
                    match ladder.out_of_memory(&known, now) {
                        Verdict::Down(_) => {
                            prop_assert_eq!(ladder.rung(), before.0 + 1);
                            prop_assert_ne!(ladder.plan(), &before.1);
                            if embeddings && before.1.embedding_tokens.is_some() {
                                let (now, then) = (ladder.plan(), &before.1);
                                prop_assert_eq!(
                                    (now.parallel, now.context_tokens, now.gpu_layers),
                                    (then.parallel, then.context_tokens, then.gpu_layers)
                                );
                            }
                            if layers == 0 {
                                prop_assert_eq!(ladder.plan().gpu_layers, before.1.gpu_layers);
                            }
                        }
                        Verdict::Exhausted => prop_assert_eq!((ladder.rung(), ladder.plan()), (before.0, &before.1)),
                    }
                    serving_since = None;
                }
                Happening::Serves => {
                    ladder.serves(now);
                    serving_since = Some(now);
                }
                Happening::Ended => {
                    ladder.ended();
                    serving_since = None;
                }
                Happening::Climb => {
                    if ladder.climb(now).is_some() {
                        prop_assert_eq!(ladder.rung() + 1, before.0);
                        let served = serving_since.map(|since| now - since);
                        prop_assert!(served.is_some_and(|served| served >= HEALTHY), "after {:?}", served);
                        serving_since = None;
                    } else {
                        prop_assert_eq!(ladder.rung(), before.0);
                    }
                }
                Happening::Wait(seconds) => now += Duration::from_secs(seconds),
            }
            prop_assert_ne!(ladder.plan().gpu_layers, Some(0), "never a silent CPU");
            prop_assert!(ladder.rung() <= 10);
        }
    }

    /// Every rung but another model's takes no more memory than the one above it.
    #[test]
    fn a_lower_rung_never_takes_more(
        context in 1024_u32..32_768, parallel in 1_u32..32, ubatch in 32_u32..2048, longest in 16_u32..4096,
    ) {
        let bytes = Sample::tiny().bytes();
        let model = read(std::io::Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let max_request_tokens = Some(longest);
        let plan = LoadPlan { context_tokens: context, parallel, ubatch_tokens: ubatch, max_request_tokens, ..configured() };
        let mut ladder = Ladder::new(plan, HEALTHY);
        let mut layers = 3;
        let without_siblings = |layers| Known { smaller_models: Vec::new(), ..known(layers) };
        let mut before = memory::estimate(&model, &ladder.plan().shape(layers)).gpu.total();
        while let Verdict::Down(_) = ladder.out_of_memory(&without_siblings(layers), Instant::now()) {
            layers = ladder.plan().gpu_layers.unwrap_or(layers);
            let now = memory::estimate(&model, &ladder.plan().shape(layers)).gpu.total();
            prop_assert!(now <= before, "{} after {}: {:?}", now, before, ladder.plan());
            before = now;
        }
    }
}
