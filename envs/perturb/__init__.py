"""Perturbations of observations: the Jacobian-regularization paper, section 5.

They are applied to the agent's observations, outside the environment.

>>> noisy = parse("noise:0.5,0.35")
>>> image = noisy(key, image)
"""

from envs.perturb.changes import ImagePerturbation as ImagePerturbation
from envs.perturb.changes import Perturbation as Perturbation
from envs.perturb.changes import StateNoise as StateNoise
from envs.perturb.changes import draw_noise as draw_noise
from envs.perturb.changes import rotate as rotate
from envs.perturb.changes import stack as stack
from envs.perturb.forms import IMAGE_FORMS as IMAGE_FORMS
from envs.perturb.forms import SETS as SETS
from envs.perturb.forms import STATE_FORMS as STATE_FORMS
from envs.perturb.forms import expanded as expanded
from envs.perturb.forms import parse as parse
