//! The check that a run begins with: kernels that agree pass, wrong ones are caught.

use std::sync::{Arc, LazyLock};

use super::agreement::{Agreement, Expected, Moved, Outcome};
use super::batch::{self, Packed};
use super::check::Fixture;
use super::engine::{Argument, Engine, Error, Launch, Pointer, Precision, Product};
use super::host::{self, Host, Patch, address, room};
use super::kernels::{Kernels, element};
use super::whole;
use crate::model::config::{Attention, Config};
use crate::model::layout::layout;
use crate::model::mask::Mask;
use crate::model::ops::numbers::Limits;
use crate::model::ops::tests::adam_step;
use crate::model::ops::{Extent, Input, Loss, Objective, Pass, Shape, Targets};
use crate::model::precision::single;
use crate::model::testing::{gpt2, llama, qwen2};

/// How a device differs from the processor in its place.
#[derive(Clone, Copy, Debug)]
enum Other {
    /// In nothing.
    Nothing,
    /// Products are summed from the last term to the first.
    Backwards,
    /// As tensor cores do: 16 terms at once, and cut off where they end rather than rounded;
    /// four parts of the sum by themselves.
    Tensor,
    /// A factor of a kernel is a quarter too large.
    Factor(&'static str, usize),
    /// Products leave out the last term.
    Terms,
    /// A kernel is another.
    Kernel(Patch),
}

/// A processor in the place of a GPU, but for something.
struct Device(Precision, Other);

impl Engine for Device {
    fn precision(&self) -> Precision {
        self.0
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Error> {
        let mut arguments = launch.arguments.to_vec();
        if let Other::Factor(kernel, which) = self.1
            && kernel == launch.kernel
        {
            let mut factors = arguments.iter_mut().filter_map(|argument| match argument {
                Argument::Float(factor) => Some(factor),
                _ => None,
            });
            *factors.nth(which).expect("the kernel takes factors") *= 1.25;
        }
        let launch = Launch {
            arguments: &arguments,
            ..launch.clone()
        };
        let patch = match self.1 {
            Other::Kernel(patch) => Some(patch),
            _ => None,
        };
        host::run(&launch, self.0, patch);
        Ok(())
    }

    fn multiply(&mut self, product: &Product) -> Result<(), Error> {
        match self.1 {
            Other::Backwards => host::multiply(product, |left, right| {
                let terms = left.iter().zip(right).rev();
                terms.fold(0.0, |sum, (x, y)| x.mul_add(*y, sum))
            }),
            Other::Tensor => host::multiply(product, tensor_core_sum),
            Other::Terms => {
                let k = product.k - 1;
                return Host(self.0).multiply(&Product { k, ..*product });
            }
            _ => return Host(self.0).multiply(product),
        }
        Ok(())
    }

    fn upload(&mut self, bytes: &[u8], to: Pointer) -> Result<(), Error> {
        Host(self.0).upload(bytes, to)
    }
}

fn tensor_core_sum(left: &[f32], right: &[f32]) -> f32 {
    let cut = |exact: f64| {
        let near = single(exact);
        match exact.abs() < f64::from(near).abs() {
            true => f32::from_bits(near.to_bits() - 1),
            false => near,
        }
    };
    let part = |(left, right): (&[f32], &[f32])| {
        let steps = left.chunks(16).zip(right.chunks(16));
        steps.fold(0.0, |sum: f32, (left, right)| {
            let products = left.iter().zip(right);
            let exact: f64 = products.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            cut(f64::from(sum) + exact)
        })
    };
    let each = left.len().div_ceil(4).max(1);
    left.chunks(each).zip(right.chunks(each)).map(part).sum()
}

/// Rows of a run of each kind: all masks, heads of 16 and 32 dimensions.
fn runs() -> Vec<Config> {
    let run = |config: Config, attention, window| Config {
        attention,
        window,
        d_model: 16 * config.n_heads,
        ..config
    };
    vec![
        run(gpt2(), Attention::Causal, None),
        Config {
            d_model: 128,
            ..run(llama(), Attention::Document, None)
        },
        Config {
            logit_soft_cap: Some(5.0),
            ..run(qwen2(), Attention::PrefixLm, Some(200))
        },
    ]
}

/// The fixture of each run, and what is expected of it.
static SEEN: LazyLock<Vec<(Fixture, Expected)>> = LazyLock::new(|| {
    let fixtures = runs().into_iter().map(|run| Fixture::new(&run));
    let expected = fixtures.map(|fixture| {
        let expected = fixture.expected().unwrap();
        (fixture, expected)
    });
    expected.collect()
});

fn agreement(run: usize, precision: Precision, other: Other) -> Agreement {
    let (fixture, expected) = &SEEN[run];
    let mut engine = Device(precision, other);
    let outcome = outcome(fixture, &mut engine);
    let moved = moved(fixture, &expected.outcome, &mut engine);
    Agreement::new(&fixture.config, expected, (&outcome, &moved), precision)
}

/// What an engine makes of the batches.
fn outcome(fixture: &Fixture, engine: &mut dyn Engine) -> Outcome {
    let mut total = Outcome {
        loss: Loss::default(),
        gradients: fixture
            .values
            .iter()
            .map(|of| vec![0.0; of.len()])
            .collect(),
    };
    for batch in &fixture.batches {
        let pass = Pass {
            shape: Arc::new(Shape::new(&fixture.config)),
            extent: Extent {
                rows: batch.rows,
                length: batch.length,
            },
            mask: Mask::new(&fixture.config, batch),
        };
        let mut rooms: Vec<Vec<f32>> = Vec::new();
        let mut memory = |bytes: usize| {
            let mut place = vec![f32::NAN; bytes.div_ceil(4).max(1)];
            let pointer = room(&mut place);
            rooms.push(place);
            pointer
        };
        let input = Input {
            ids: batch.ids.widened(),
            targets: Targets {
                ids: batch.targets(),
                weights: batch.weights(),
            },
            pass: pass.clone(),
        };
        let packed = Packed::new(&input, true);
        let (words, rope) = (memory(4 * packed.words.size()), batch::rope(&pass));
        packed.words.send(&mut Kernels::new(engine), words).unwrap();
        let held = packed.held(&pass, words, address(&rope));
        let groups: Vec<Pointer> = fixture.values.iter().map(|of| address(of)).collect();
        let computed = whole::differentiate(
            engine,
            &pass,
            &groups,
            &held,
            &fixture.objective,
            &mut memory,
        )
        .unwrap();
        let at = |pointer: Pointer, len: usize| {
            let room = rooms.iter().find(|room| address(room) == pointer);
            room.unwrap()[..len].to_vec()
        };
        let sums = at(computed.sums, 2);
        total.loss.cross_entropy += f64::from(sums[0]);
        total.loss.z_loss += f64::from(sums[1]);
        for (sum, more) in total.gradients.iter_mut().zip(&computed.gradients) {
            let more = at(*more, sum.len());
            sum.iter_mut()
                .zip(more)
                .for_each(|(sum, more)| *sum += more);
        }
        if pass.shape.last.head.is_none() {
            let sum = &mut total.gradients[0];
            let more = at(computed.tied, sum.len());
            sum.iter_mut()
                .zip(more)
                .for_each(|(sum, more)| *sum += more);
        }
    }
    total
}

/// What an engine's optimizer makes of given gradients.
fn moved(fixture: &Fixture, of: &Outcome, engine: &mut dyn Engine) -> Moved {
    let mut kernels = Kernels::new(engine);
    let (mut partial, mut squares, mut numbers) = (vec![0.0f32; 512], [0.0f32], [f32::NAN; 4]);
    for gradient in &of.gradients {
        let sum = room(&mut squares);
        let to = (room(&mut partial), sum);
        kernels
            .squares((address(gradient), sum), to, gradient.len())
            .unwrap();
    }
    let norm = f64::from(squares[0]).sqrt();
    let sums = [1.0f32, 0.0];
    let from = (address(&sums), address(&squares));
    let limits = fixture.limits(norm);
    kernels.numbers(from, room(&mut numbers), &limits).unwrap();
    let groups = layout(&fixture.config);
    let groups = groups.iter().zip(&fixture.values).zip(&of.gradients);
    groups
        .map(|((group, values), gradient)| {
            let zeros = || vec![0.0; group.len];
            let mut arrays = [values.clone(), zeros(), zeros()];
            for part in &group.parts {
                let start = part.range.start;
                let to = arrays.each_mut().map(|array| element(room(array), start));
                let from = [to[0], element(address(gradient), start), to[1], to[2]];
                let step = (&fixture.step, fixture.step.keep(part.decay));
                let count = part.range.len();
                kernels
                    .adamw(from, to, address(&numbers), step, count)
                    .unwrap();
            }
            arrays
        })
        .collect()
}

#[test]
fn kernels_that_agree_pass_in_whichever_order_they_add() {
    use Other::{Backwards, Nothing, Tensor};
    use Precision::{Bf16, Single};
    for (run, precision, other) in [
        (0, Single, Backwards),
        (2, Single, Tensor),
        (0, Bf16, Nothing),
        (1, Bf16, Tensor),
        (2, Bf16, Backwards),
    ] {
        let agreement = agreement(run, precision, other);
        let at = format!("run {run}, {precision:?}, {other:?}: {agreement}");
        assert!(agreement.holds(), "{at}");
        // The bounds are not so wide that everything is within them.
        let off = agreement.gradient;
        assert!(0.05 * off.allowed < off.found, "{at}");
    }
}

#[test]
fn a_wrong_kernel_is_caught() {
    use Precision::{Bf16, Single};
    for (run, other, precision) in [
        (0, Other::Factor("attention", 0), Bf16),
        (0, Other::Factor("attention_back_keys", 1), Bf16),
        (1, Other::Factor("turn", 0), Bf16),
        (0, Other::Factor("cross_entropy", 0), Single),
        (0, Other::Factor("numbers", 1), Single),
        (0, Other::Factor("adamw", 0), Single),
        (0, Other::Terms, Bf16),
    ] {
        let agreement = agreement(run, precision, other);
        assert!(!agreement.holds(), "{other:?}, {precision:?}: {agreement}");
    }
}

#[test]
fn attention_that_leaves_out_or_sees_too_much_is_caught() {
    let tiles = [
        ("key < end; key += TILE", "key + TILE < end; key += TILE"),
        ("query < length; query", "query + TILE < length; query"),
    ];
    let masks = [
        ("at < range[half].end;", "at <= range[half].end;"),
        ("key < range[at].end;", "key + 1 < range[at].end;"),
    ];
    let scale = ("sum, scale_back,", "sum, 1,");
    for (from, to) in tiles.into_iter().chain(masks).chain([scale]) {
        let file = "attention.cu";
        let other = Other::Kernel(Patch { file, from, to });
        let agreement = agreement(0, Precision::Bf16, other);
        assert!(!agreement.holds(), "{other:?}: {agreement}");
    }
}

/// How often a device is asked for something.
#[derive(Default)]
struct Counting {
    kernels: usize,
    products: usize,
    copies: usize,
}

impl Engine for Counting {
    fn precision(&self) -> Precision {
        Precision::Bf16
    }

    fn launch(&mut self, _: &Launch<'_>) -> Result<(), Error> {
        self.kernels += 1;
        Ok(())
    }

    fn multiply(&mut self, _: &Product) -> Result<(), Error> {
        self.products += 1;
        Ok(())
    }

    fn upload(&mut self, _: &[u8], _: Pointer) -> Result<(), Error> {
        self.copies += 1;
        Ok(())
    }
}

/// GPT-2 of 124 M parameters.
fn gpt_2() -> Config {
    Config {
        vocab_size: 50_304,
        context: 1024,
        n_layers: 12,
        n_heads: 12,
        n_kv_heads: 12,
        d_model: 768,
        d_ff: 3072,
        ..gpt2()
    }
}

/// What `benches/gpu/README.md` says that a step of GPT-2 takes.
#[test]
fn a_step_of_gpt_2_asks_a_device_so_often() {
    let config = gpt_2();
    let extent = Extent {
        rows: 64,
        length: 1024,
    };
    let n = extent.positions();
    let pass = Pass {
        shape: Arc::new(Shape::new(&config)),
        extent,
        mask: Mask::causal(extent.length),
    };
    let id = |at: usize| u32::try_from(at % 50_000).unwrap();
    let input = Input {
        ids: (0..n).map(id).collect(),
        targets: Targets {
            ids: (0..n).map(id).collect(),
            weights: vec![1.0; n],
        },
        pass: pass.clone(),
    };
    let (packed, some) = (Packed::new(&input, true), Pointer(1 << 40));
    let held = packed.held(&pass, some, some);
    let mut counting = Counting::default();
    packed
        .words
        .send(&mut Kernels::new(&mut counting), some)
        .unwrap();
    let groups = layout(&config);
    let pointers = vec![some; groups.len()];
    let objective = Objective::PLAIN;
    whole::differentiate(
        &mut counting,
        &pass,
        &pointers,
        &held,
        &objective,
        &mut |_| some,
    )
    .unwrap();
    let gradients = (counting.kernels, counting.products);
    let mut kernels = Kernels::new(&mut counting);
    let limits = Limits {
        mean: 1.0,
        clip: 1.0,
    };
    let step = adam_step(1);
    for group in &groups {
        kernels
            .squares((some, some), (some, some), group.len)
            .unwrap();
        for part in &group.parts {
            let (from, to) = ([some; 4], [some; 3]);
            let keep = step.keep(part.decay);
            kernels
                .adamw(from, to, some, (&step, keep), part.range.len())
                .unwrap();
        }
    }
    kernels.numbers((some, some), some, &limits).unwrap();
    let update = counting.kernels - gradients.0;
    assert_eq!((gradients, update, counting.copies), ((417, 222), 177, 1));
}
