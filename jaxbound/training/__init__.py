"""Defines certified training and evaluation: schedules, losses, regularisers, an attack, an evaluator. No Flax."""

from jaxbound.training._attack import Attack as Attack
from jaxbound.training._attack import pgd as pgd
from jaxbound.training._evaluation import Evaluation as Evaluation
from jaxbound.training._evaluation import evaluator as evaluator
from jaxbound.training._losses import LossTerms as LossTerms
from jaxbound.training._losses import adversarial_loss as adversarial_loss
from jaxbound.training._losses import crown_ibp_loss as crown_ibp_loss
from jaxbound.training._losses import fused_crown_ibp_loss as fused_crown_ibp_loss
from jaxbound.training._losses import ibp_loss as ibp_loss
from jaxbound.training._losses import single_prop_loss as single_prop_loss
from jaxbound.training._losses import worst_case_cross_entropy as worst_case_cross_entropy
from jaxbound.training._regularizers import BoundRegularizers as BoundRegularizers
from jaxbound.training._regularizers import bound_regularizers as bound_regularizers
from jaxbound.training._regularizers import kernel_l1 as kernel_l1
from jaxbound.training._schedules import adaptive_kappa as adaptive_kappa
from jaxbound.training._schedules import beta as beta
from jaxbound.training._schedules import kappa as kappa
from jaxbound.training._schedules import linear_eps as linear_eps
from jaxbound.training._schedules import linear_eta as linear_eta
from jaxbound.training._schedules import regularizer_weight as regularizer_weight
from jaxbound.training._schedules import smoothed_eps as smoothed_eps
