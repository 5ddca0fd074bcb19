//! Fused CPU operations with hand-written gradients: candle's own fused ones have no backward pass, and the same
//! formulas from single tensor operations take about twice the time.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};

/// The elements of a contiguous f32 (or u32) tensor.
fn elements<'a, T: candle_core::WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
    op: &'static str,
) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{op}: the tensor must be contiguous")
    };
    Ok(&storage.as_slice::<T>()?[start..end])
}

fn last_dim(layout: &Layout, op: &'static str) -> Result<usize> {
    match layout.dims().last() {
        Some(&size) if size > 0 => Ok(size),
        _ => bail!("{op}: the tensor must have a last dimension above 0"),
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Root-mean-square normalisation: `y = x / sqrt(mean(x²) + eps) · weight` over the last dimension.
///
/// # Errors
/// When a tensor is not contiguous f32 or the weight's length is not the last dimension.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    x.apply_op2(weight, RmsNorm { eps })
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn inverse(&self, row: &[f32]) -> f32 {
        (dot(row, row) / row.len() as f32 + self.eps).sqrt().recip()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = last_dim(x_layout, self.name())?;
        let x = elements::<f32>(x, x_layout, self.name())?;
        let weight = elements::<f32>(weight, weight_layout, self.name())?;
        if weight.len() != size {
            bail!("rms-norm: {} weights for rows of {size}", weight.len())
        }
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(size) {
            let inverse = self.inverse(row);
            out.extend(row.iter().zip(weight).map(|(x, w)| x * inverse * w));
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let by = |wrt| x.apply_op3_no_bwd(weight, &grad, &RmsNormGrad { eps: self.eps, wrt });
        Ok((Some(by(Argument::First)?), Some(by(Argument::Second)?)))
    }
}

/// Which argument of the forward operation a gradient belongs to.
#[derive(Clone, Copy)]
enum Argument {
    First,
    Second,
}

struct RmsNormGrad {
    eps: f32,
    wrt: Argument,
}

impl CustomOp3 for RmsNormGrad {
    fn name(&self) -> &'static str {
        "rms-norm-grad"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = last_dim(x_layout, self.name())?;
        let x = elements::<f32>(x, x_layout, self.name())?;
        let weight = elements::<f32>(weight, weight_layout, self.name())?;
        let grad = elements::<f32>(grad, grad_layout, self.name())?;
        let norm = RmsNorm { eps: self.eps };
        let rows = x.chunks_exact(size).zip(grad.chunks_exact(size));
        match self.wrt {
            Argument::First => {
                let mut out = Vec::with_capacity(x.len());
                for (x, grad) in rows {
                    let inverse = norm.inverse(x);
                    let terms = grad.iter().zip(weight).zip(x);
                    let along: f32 = terms.map(|((g, w), x)| g * w * x).sum();
                    let pull = along * inverse * inverse * inverse / size as f32;
                    let terms = grad.iter().zip(weight).zip(x);
                    out.extend(terms.map(|((g, w), x)| g * w * inverse - x * pull));
                }
                Ok((CpuStorage::F32(out), x_layout.shape().clone()))
            }
            Argument::Second => {
                let mut out = vec![0f32; size];
                for (x, grad) in rows {
                    let inverse = norm.inverse(x);
                    for ((out, grad), x) in out.iter_mut().zip(grad).zip(x) {
                        *out += grad * x * inverse;
                    }
                }
                Ok((CpuStorage::F32(out), weight_layout.shape().clone()))
            }
        }
    }
}

/// Softmax of `scale · scores` over the keys that a query may see: `[batch, heads, queries, keys]` with as many queries
/// as keys. Later keys, and those before `starts[batch · queries + query]`, get probability 0.
///
/// # Errors
/// When the tensor is not contiguous f32, its shape is another, or `starts` does not fit it.
pub fn causal_softmax(scores: &Tensor, scale: f32, starts: Arc<[usize]>) -> Result<Tensor> {
    scores.apply_op1(CausalSoftmax { scale, starts })
}

#[derive(Clone)]
struct CausalSoftmax {
    scale: f32,
    starts: Arc<[usize]>,
}

impl CausalSoftmax {
    /// The keys which each row of scores sees, and the number of keys.
    fn visible(&self, layout: &Layout) -> Result<(impl Iterator<Item = Range<usize>>, usize)> {
        let &[batch, heads, queries, keys] = layout.dims() else {
            bail!("causal-softmax: {:?} are not four dimensions", layout.dims())
        };
        let fit = self.starts.iter().enumerate().all(|(row, start)| *start <= row % queries);
        if queries != keys || self.starts.len() != batch * queries || !fit {
            bail!("causal-softmax: the first visible keys do not fit {:?}", layout.dims())
        }
        let ranges = (0..batch * heads * queries).map(move |row| {
            let query = row % queries;
            self.starts[row / (heads * queries) * queries + query]..query + 1
        });
        Ok((ranges, keys))
    }
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (visible, keys) = self.visible(layout)?;
        let scores = elements::<f32>(scores, layout, self.name())?;
        let mut out = vec![0f32; scores.len()];
        let rows = scores.chunks_exact(keys).zip(out.chunks_exact_mut(keys));
        for ((row, out), visible) in rows.zip(visible) {
            let (row, out) = (&row[visible.clone()], &mut out[visible]);
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0f32;
            for (out, score) in out.iter_mut().zip(row) {
                *out = ((score - largest) * self.scale).exp();
                total += *out;
            }
            let inverse = total.recip();
            out.iter_mut().for_each(|p| *p *= inverse);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _scores: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        Ok(Some(res.apply_op2_no_bwd(&grad, &CausalSoftmaxGrad(self.clone()))?))
    }
}

struct CausalSoftmaxGrad(CausalSoftmax);

impl CustomOp2 for CausalSoftmaxGrad {
    fn name(&self) -> &'static str {
        "causal-softmax-grad"
    }

    fn cpu_fwd(
        &self,
        probabilities: &CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (visible, keys) = self.0.visible(layout)?;
        let probabilities = elements::<f32>(probabilities, layout, self.name())?;
        let grad = elements::<f32>(grad, grad_layout, self.name())?;
        let mut out = vec![0f32; probabilities.len()];
        let rows = probabilities.chunks_exact(keys).zip(grad.chunks_exact(keys));
        for (((p, grad), out), visible) in rows.zip(out.chunks_exact_mut(keys)).zip(visible) {
            let (p, grad) = (&p[visible.clone()], &grad[visible.clone()]);
            let mean = dot(p, grad);
            for ((out, p), grad) in out[visible].iter_mut().zip(p).zip(grad) {
                *out = self.0.scale * p * (grad - mean);
            }
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Cosines and sines of the rotary position embedding, `[positions, head_dim / 2]` each.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    half: usize,
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
}

impl RotaryTable {
    /// Angles `position · theta^(-2i / head_dim)` for every position below `positions`.
    #[must_use]
    pub fn new(positions: usize, head_dim: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let angles: Vec<f32> = (0..positions * half)
            .map(|index| {
                let exponent = -2.0 * (index % half) as f32 / head_dim as f32;
                (index / half) as f32 * theta.powf(exponent)
            })
            .collect();
        let cos = angles.iter().map(|angle| angle.cos()).collect();
        let sin = angles.iter().map(|angle| angle.sin()).collect();
        Self { half, cos, sin }
    }

    /// Turns the two halves of every head by its position's angles (the Llama convention). `x` is
    /// `[batch, heads, positions, head_dim]`.
    ///
    /// # Errors
    /// When the tensor is not contiguous f32, its head size is not the table's, or it has more positions.
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1(Rotary { table: self.clone(), inverse: false })
    }
}

struct Rotary {
    table: RotaryTable,
    inverse: bool,
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let RotaryTable { half, cos, sin } = &self.table;
        let half = *half;
        let &[.., positions, size] = layout.dims() else { bail!("rotary: at least 2 dimensions") };
        if size != 2 * half || positions * half > cos.len() {
            bail!("rotary: no angles for {positions} positions of {size}")
        }
        let x = elements::<f32>(x, layout, self.name())?;
        let sign = if self.inverse { -1.0 } else { 1.0 };
        let mut out = vec![0f32; x.len()];
        for (index, (x, out)) in x.chunks_exact(size).zip(out.chunks_exact_mut(size)).enumerate() {
            let position = index % positions;
            let angles = cos[position * half..].iter().zip(&sin[position * half..]);
            let (first, second) = x.split_at(half);
            let (out_first, out_second) = out.split_at_mut(half);
            let outs = out_first.iter_mut().zip(out_second);
            for (((x, y), (out_x, out_y)), (cos, sin)) in
                first.iter().zip(second).zip(outs).zip(angles)
            {
                let sin = sign * sin;
                *out_x = x * cos - y * sin;
                *out_y = y * cos + x * sin;
            }
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        // A rotation's transpose turns back.
        let back = Rotary { table: self.table.clone(), inverse: !self.inverse };
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

/// The gated activation of a Llama feed-forward block: `silu(gate) · up`, elementwise.
///
/// # Errors
/// When the tensors are not contiguous f32 or differ in shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2(up, SwiGlu)
}

struct SwiGlu;

fn sigmoid(x: f32) -> f32 {
    (1.0 + (-x).exp()).recip()
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if gate_layout.shape() != up_layout.shape() {
            bail!("swiglu: {:?} against {:?}", gate_layout.shape(), up_layout.shape())
        }
        let gate = elements::<f32>(gate, gate_layout, self.name())?;
        let up = elements::<f32>(up, up_layout, self.name())?;
        let out = gate.iter().zip(up).map(|(gate, up)| gate * sigmoid(*gate) * up).collect();
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let by = |wrt| gate.apply_op3_no_bwd(up, &grad, &SwiGluGrad { wrt });
        Ok((Some(by(Argument::First)?), Some(by(Argument::Second)?)))
    }
}

struct SwiGluGrad {
    wrt: Argument,
}

impl CustomOp3 for SwiGluGrad {
    fn name(&self) -> &'static str {
        "swiglu-grad"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gate = elements::<f32>(gate, gate_layout, self.name())?;
        let up = elements::<f32>(up, up_layout, self.name())?;
        let grad = elements::<f32>(grad, grad_layout, self.name())?;
        let out = match self.wrt {
            Argument::First => (gate.iter().zip(up).zip(grad))
                .map(|((gate, up), grad)| {
                    let s = sigmoid(*gate);
                    grad * up * s * (1.0 + gate * (1.0 - s))
                })
                .collect(),
            Argument::Second => {
                gate.iter().zip(grad).map(|(gate, grad)| grad * gate * sigmoid(*gate)).collect()
            }
        };
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }
}

/// Mean cross entropy in nats: `logits` is `[rows, vocabulary]`, `targets` holds a u32 token id per row.
///
/// # Errors
/// When shapes or types do not fit or a target lies outside the vocabulary.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    logits.apply_op2(targets, CrossEntropy)
}

struct CrossEntropy;

/// Natural logarithm of the sum of exponentials, and the largest entry.
fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    largest + row.iter().map(|x| (x - largest).exp()).sum::<f32>().ln()
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = last_dim(logits_layout, self.name())?;
        let logits = elements::<f32>(logits, logits_layout, self.name())?;
        let targets = elements::<u32>(targets, targets_layout, self.name())?;
        if logits.len() != targets.len() * size || targets.iter().any(|t| *t as usize >= size) {
            bail!("cross-entropy: targets do not fit logits of {:?}", logits_layout.shape())
        }
        let total: f64 = (logits.chunks_exact(size).zip(targets))
            .map(|(row, target)| f64::from(log_sum_exp(row) - row[*target as usize]))
            .sum();
        let mean = (total / targets.len() as f64) as f32;
        Ok((CpuStorage::F32(vec![mean]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = grad.to_scalar::<f32>()? / targets.elem_count() as f32;
        Ok((Some(logits.apply_op2_no_bwd(targets, &CrossEntropyGrad { scale })?), None))
    }
}

struct CrossEntropyGrad {
    scale: f32,
}

impl CustomOp2 for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross-entropy-grad"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let size = last_dim(logits_layout, self.name())?;
        let logits = elements::<f32>(logits, logits_layout, self.name())?;
        let targets = elements::<u32>(targets, targets_layout, self.name())?;
        let mut out = Vec::with_capacity(logits.len());
        for (row, target) in logits.chunks_exact(size).zip(targets) {
            let log_total = log_sum_exp(row);
            let start = out.len();
            out.extend(row.iter().map(|x| self.scale * (x - log_total).exp()));
            out[start + *target as usize] -= self.scale;
        }
        Ok((CpuStorage::F32(out), logits_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(shape: &[usize], seed: u64) -> Var {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values = (0..shape.iter().product()).map(|_| rng.random_range(-1.5f32..1.5)).collect();
        Var::from_tensor(&Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// A scalar that weighs every element differently, so that no error can cancel out.
    fn weighed(x: &Tensor) -> Tensor {
        let weights = random(x.dims(), 99);
        (x * weights.as_tensor()).unwrap().sum_all().unwrap()
    }

    /// Compares every partial derivative with a central difference.
    fn check_gradients(variables: &[&Var], forward: impl Fn() -> Tensor) {
        let gradients = weighed(&forward()).backward().unwrap();
        for variable in variables {
            let gradient = gradients.get(variable).unwrap().flatten_all().unwrap();
            let gradient = gradient.to_vec1::<f32>().unwrap();
            let values = variable.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (index, expected) in gradient.iter().enumerate() {
                let at = |shift: f32| {
                    let mut values = values.clone();
                    values[index] += shift;
                    let moved = Tensor::from_vec(values, variable.dims(), &Device::Cpu).unwrap();
                    variable.set(&moved).unwrap();
                    weighed(&forward()).to_scalar::<f32>().unwrap()
                };
                let slope = (at(5e-3) - at(-5e-3)) / 1e-2;
                at(0.0);
                assert!(
                    (slope - expected).abs() < 5e-3 * (1.0 + expected.abs()),
                    "element {index}: gradient {expected}, difference {slope}"
                );
            }
        }
    }

    fn assert_close(a: &Tensor, b: &Tensor) {
        let distance = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        assert!(distance.to_scalar::<f32>().unwrap() < 1e-5);
    }

    #[test]
    fn gradients_flow_through_causal_softmax() {
        let scores = random(&[2, 2, 4, 4], 1);
        check_gradients(&[&scores], || {
            causal_softmax(&scores, 0.7, [0, 0, 1, 1, 0, 1, 2, 0].into()).unwrap()
        });
    }

    #[test]
    fn gradients_flow_through_rotary() {
        let x = random(&[2, 2, 3, 4], 2);
        let table = RotaryTable::new(8, 4, 100.0);
        check_gradients(&[&x], || table.rotate(&x).unwrap());
    }

    #[test]
    fn gradients_flow_through_rms_norm() {
        let (x, weight) = (random(&[3, 4], 3), random(&[4], 4));
        check_gradients(&[&x, &weight], || rms_norm(&x, &weight, 1e-5).unwrap());
    }

    #[test]
    fn gradients_flow_through_swiglu() {
        let (gate, up) = (random(&[3, 4], 5), random(&[3, 4], 6));
        check_gradients(&[&gate, &up], || swiglu(&gate, &up).unwrap());
    }

    #[test]
    fn gradients_flow_through_cross_entropy() {
        let logits = random(&[3, 5], 7);
        let targets = Tensor::new(&[4u32, 0, 2], &Device::Cpu).unwrap();
        check_gradients(&[&logits], || cross_entropy(&logits, &targets).unwrap());
    }

    #[test]
    fn causal_softmax_is_a_masked_softmax() {
        let scores = random(&[1, 2, 5, 5], 8);
        let mask = Tensor::tril2(5, DType::U8, &Device::Cpu).unwrap();
        let mask = mask.broadcast_as(scores.shape()).unwrap();
        let hidden = Tensor::full(f32::NEG_INFINITY, scores.shape(), &Device::Cpu).unwrap();
        let masked = mask.where_cond(&(scores.as_tensor() * 0.5).unwrap(), &hidden).unwrap();
        let expected = candle_nn::ops::softmax(&masked, 3).unwrap();
        assert_close(&causal_softmax(&scores, 0.5, [0; 5].into()).unwrap(), &expected);
    }

    #[test]
    fn rotary_and_rms_norm_agree_with_candle() {
        let x = random(&[2, 3, 6, 8], 9);
        let table = RotaryTable::new(6, 8, 10_000.0);
        let cos = Tensor::from_slice(&table.cos, (6, 4), &Device::Cpu).unwrap();
        let sin = Tensor::from_slice(&table.sin, (6, 4), &Device::Cpu).unwrap();
        let expected = candle_nn::rotary_emb::rope(&x, &cos, &sin).unwrap();
        assert_close(&table.rotate(&x).unwrap(), &expected);
        let weight = random(&[8], 10);
        let expected = candle_nn::ops::rms_norm(&x, &weight, 1e-5).unwrap();
        assert_close(&rms_norm(&x, &weight, 1e-5).unwrap(), &expected);
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        let x = random(&[2, 4], 11);
        assert!(rms_norm(&x, &random(&[3], 12), 1e-5).is_err());
        assert!(causal_softmax(&x, 1.0, [0; 2].into()).is_err());
        assert!(swiglu(&x, &random(&[4, 2], 13)).is_err());
        let outside = Tensor::new(&[0u32, 4], &Device::Cpu).unwrap();
        assert!(cross_entropy(&x, &outside).is_err());
        let positions = random(&[1, 1, 9, 4], 14);
        assert!(RotaryTable::new(8, 4, 100.0).rotate(&positions).is_err());
    }
}
